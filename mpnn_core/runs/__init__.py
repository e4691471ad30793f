"""Runs: many structures through several processes into one folder, which can be continued."""
