"""What every test has: the claims, the paired measurement and the ledger (mpnn_core/gate/)."""

pytest_plugins = ["mpnn_core.gate.plugin", "pytester"]
