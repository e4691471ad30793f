"""Triton kernels: the levels of a decoding order, and the decoder that walks them.

A *team* of thread blocks decodes a set of sequences, level after level. Sequences never read each
other, so teams never wait for each other; where there are as many sequences as multiprocessors, a
team is one block and nothing on the chip waits for anything else.

A block works on R rows at a time. The edge MLP of a layer is one product per tile of
KB neighbours × R rows with W2, its sum over neighbours kept in registers; what acts on nodes
follows in the same block, on NODE_ROWS rows, of which the first R count: matrix units take no
fewer.
"""

# mypy: ignore-errors
# ruff: noqa: SIM108
# Triton compiles these functions: their arguments have no Python types, and the branches on
# constants that it prunes must be statements.
from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")
NODE_ROWS = tl.constexpr(16)  # fewest rows of a matrix-unit product
LETTERS = tl.constexpr(21)
STATES = tl.constexpr(22)  # of a neighbour in the first decoder layer: no residue, or a letter
COLUMNS = tl.constexpr(32)  # letters, up to a power of two
MESSAGE_SCALE = tl.constexpr(30.0)
EPSILON = tl.constexpr(1e-5)  # of torch.nn.LayerNorm


@triton.jit
def product(a, weight, k, n, WIDTH, LOW, EXACT: tl.constexpr):
    """a @ the transpose of a row-major weight of WIDTH columns, in float16 and summed in float32.

    EXACT takes float32's accuracy from three products: a float32 is the sum of a float16 and,
    scaled up by 2**11, of another, which `weight` has LOW elements further on. The product of two
    such remainders, which is left out, is below 2**-22 of the whole.
    """
    at = weight + (n[None, :] * WIDTH + k[:, None])
    if EXACT:
        return exact_product(a, tl.load(at), tl.load(at + LOW))
    else:
        return tl.dot(a.to(tl.float16), tl.load(at))


@triton.jit
def exact_product(a, high, low):
    a_high = a.to(tl.float16)
    a_low = ((a - a_high.to(tl.float32)) * 2048.0).to(tl.float16)
    small = tl.dot(a_high, low, tl.dot(a_low, high))
    return tl.dot(a_high, high, small * (1 / 2048.0))


@triton.jit
def gelu(x, EXACT: tl.constexpr, HALF: tl.constexpr):
    """The erf form in float32 if EXACT, or the tanh form, in float16 if HALF, else in float32.

    Phi(-a) = exp(-a^2 / 2) P(1 / (1 + 0.24 a)), the polynomial fitted to the least largest error
    of a Phi(-a): 5e-10.
    """
    if EXACT:
        a = tl.abs(x)
        t = reciprocal(1 + 0.24 * a)
        p = -0.12377947640288786 * t + 0.5483883098766703
        p = p * t - 0.6339310966404541
        p = p * t + 0.6129536950430836
        p = p * t - 0.14669154303443265
        p = p * t + 0.15324227147163266
        p = (p * t + 0.08981785939839577) * t
        return tl.maximum(x, 0) - a * tl.exp2(x * x * -0.7213475204444817) * p
    elif INTERPRETED:
        x = x.to(tl.float32)
        x *= tl.sigmoid(2 * x * (0.7978845608 + 0.0356774081 * x * x))
        return x.to(tl.float16 if HALF else tl.float32)
    elif HALF:
        # Two at a time, with the hardware's tanh.
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 u, v, c, d;
            mov.b32 c, 0x3A623A62;
            mov.b32 d, 0x28912891;
            mul.f16x2 u, $1, $1;
            fma.rn.f16x2 u, u, d, c;
            mul.f16x2 u, u, $1;
            tanh.approx.f16x2 u, u;
            mov.b32 c, 0x38003800;
            mul.f16x2 v, $1, c;
            fma.rn.f16x2 $0, u, v, v;
            }""",
            "=r,r",
            [x.to(tl.float16)],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    else:
        u = x * (0.7978845608 + 0.0356774081 * x * x)
        u = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1
        )
        v = 0.5 * x
        return u * v + v


@triton.jit
def reciprocal(x):
    """Within an ulp of float32, without the care for subnormal numbers."""
    if INTERPRETED:
        return 1 / x
    else:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def norm(x, weight, bias, h, H: tl.constexpr):
    mean = tl.sum(x, 1) / H
    x -= mean[:, None]
    scale = tl.rsqrt(tl.sum(x * x, 1) / H + EPSILON)
    return x * scale[:, None] * tl.load(weight + h)[None, :] + tl.load(bias + h)[None, :]


@triton.jit
def decoded_and_node(h_V, DA, b1, LAYERS: tl.constexpr, H: tl.constexpr, EXACT: tl.constexpr):
    """D h_V and A h_V + b1 in one product: rows 2 h and 2 h + 1 of DA are rows h of D and of A."""
    h = tl.arange(0, H)
    both = product(h_V, DA, h, tl.arange(0, 2 * H), H, LAYERS * 2 * H * H, EXACT)
    known, of_node = tl.split(tl.reshape(both, (h_V.shape[0], H, 2)))
    return known, of_node + tl.load(b1 + h)[None, :]


@triton.jit
def row_of_edge(m, R: tl.constexpr):
    """Which of R rows edge m of a tile belongs to; edges m and m + 8 belong to the same one."""
    return (m // 16 * 8 + m % 8) % R


@triton.jit
def slot_of_edge(m, R: tl.constexpr):
    """Which neighbour, of those of a tile, edge m leads to."""
    return (m // 16 * 8 + m % 8) // R * 2 + m // 8 % 2


@triton.jit
def summed_messages(
    of_node,  # (NODES, H) float32, A h_V + b1
    edge_rows, edge_nodes,  # (KB * R,): rows and nodes of the tile's edges
    here, table, edges, reads, valid, W2, b2,
    LAYERS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, R: tl.constexpr,
    EXACT: tl.constexpr, WHOLE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The sums (R, H) of the messages of R rows before W3; `here` is this block's scratch, (R, H).

    WHOLE: every row has K neighbours, and KB divides K.
    """
    NODES: tl.constexpr = of_node.shape[0]
    h = tl.arange(0, H)
    n = tl.arange(0, NODES)
    m = tl.arange(0, KB * R)
    tl.debug_barrier()  # `here` of the layer before has been read
    tl.store(
        here + n[:, None] * H + h[None, :], of_node.to(here.dtype.element_ty), mask=(n < R)[:, None]
    )
    tl.debug_barrier()
    # Edges m and m + 8 are one thread's in a product's result, and summed there.
    slot = slot_of_edge(m, R)
    mine = here + (row_of_edge(m, R)[:, None] * H + h[None, :])
    W2_at = W2 + (h[None, :] * H + h[:, None])
    W2_high = tl.load(W2_at)
    if EXACT:
        W2_low = tl.load(W2_at + LAYERS * H * H)
    b2_n = tl.load(b2 + h)[None, :]
    total = tl.zeros((KB * R // 16, 8, H), tl.float32)
    reads_of = reads + edge_rows * K + slot
    edge = edge_nodes * K + slot
    if WHOLE:
        at = tl.load(reads_of)
    else:
        at = tl.load(reads_of, mask=slot < K, other=0)
    for k in tl.range(0, K, KB, num_stages=STAGES):
        inside = k + slot < K
        from_table = table + at.to(tl.int64)[:, None] * H + h[None, :]
        from_edges = edges + (edge + k)[:, None] * H + h[None, :]
        if WHOLE:
            x = tl.load(from_table) + tl.load(from_edges)
        else:
            x = tl.load(from_table) + tl.load(from_edges, mask=inside[:, None], other=0)
        # The next tile's rows, before this tile's arithmetic.
        at = tl.load(reads_of + k + KB, mask=k + KB + slot < K, other=0)
        x = gelu(x + tl.load(mine), EXACT, True)
        if EXACT:
            x = exact_product(x, W2_high, W2_low)
        else:
            x = tl.dot(x, W2_high)
        x = gelu(x + b2_n, EXACT, False)
        if not WHOLE:
            counted = tl.load(valid + edge + k, mask=inside, other=0) != 0
            x = tl.where(counted[:, None], x, 0.0)
        total += tl.sum(tl.reshape(x, (KB * R // 16, 2, 8, H)), 1)
    return tl.sum(tl.reshape(total, (KB // 2, R, H)), 0)


@triton.jit
def known_messages(
    order, first, end, nodes_of, places, messages, reads, tokens, N,
    H: tl.constexpr, K: tl.constexpr, SLOTS: tl.constexpr, KB: tl.constexpr, R: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """`summed_messages` of the first layer, each one read from the table of `first_messages`.

    `places` is this block's scratch, (SLOTS, R), of SLOTS >= K: found beforehand, all at once, so
    that several tiles of messages can be in flight.
    """
    h = tl.arange(0, H)
    m = tl.arange(0, KB * R)
    s = tl.arange(0, SLOTS * R)
    inside = s // R < K
    rows = tl.load(order + tl.minimum(first + s % R, end - 1)).to(tl.int64)
    edge = tl.load(nodes_of + rows) * K + s // R
    row = tl.load(reads + rows * K + s // R, mask=inside, other=0) - N
    # No residue is 0, letters count from 1 on.
    state = 1 + tl.load(tokens + row, mask=inside & (row >= 0), other=-1)
    tl.store(places + s, edge * STATES + state.to(tl.int32))
    tl.debug_barrier()
    places += slot_of_edge(m, R) * R + row_of_edge(m, R)
    total = tl.zeros((KB * R, H), tl.float32)
    for k in tl.range(0, K, KB, num_stages=STAGES):
        at = tl.load(places + k * R).to(tl.int64)[:, None] * H + h[None, :]
        counted = k + slot_of_edge(m, R) < K
        total += tl.load(messages + at, mask=counted[:, None], other=0).to(tl.float32)
    total = tl.sum(tl.reshape(total, (KB * R // 16, 2, 8, H)), 1)
    return tl.sum(tl.reshape(total, (KB // 2, R, H)), 0)


@triton.jit(do_not_specialize=["E"])
def first_messages(
    messages, of_node, undecoded, residues, edges, neighbours, valid, W2, b2, E,
    LAYERS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, EDGES: tl.constexpr,
    PARTS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """What each edge says in the first decoder layer, before W3: messages (E, STATES, H).

    It depends on the edge and on what is known of its other end: no residue, or one of the letters.
    of_node (N, H) float32 is A h_V + b1. Program (e, p): every PARTS-th state of the e-th EDGES
    edges.
    """
    h = tl.arange(0, H)
    m = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    real = m < E
    there = tl.load(neighbours + m, mask=real, other=0)
    inside = real[:, None]
    base = tl.load(edges + m[:, None] * H + h[None, :], mask=inside, other=0).to(tl.float32)
    base += tl.load(of_node + (m // K)[:, None] * H + h[None, :], mask=inside, other=0)
    base += tl.load(undecoded + there[:, None] * H + h[None, :]).to(tl.float32)
    counted = tl.load(valid + m, mask=real, other=0) != 0
    W2_at = W2 + (h[None, :] * H + h[:, None])
    W2_high = tl.load(W2_at)
    if EXACT:
        W2_low = tl.load(W2_at + LAYERS * H * H)
    b2_n = tl.load(b2 + h)[None, :]
    for state in range(tl.program_id(1), STATES, PARTS):
        residue = tl.load(residues + (state - 1) * H + h, mask=(h >= 0) & (state > 0), other=0)
        x = gelu(base + residue[None, :], EXACT, True)
        if EXACT:
            x = exact_product(x, W2_high, W2_low)
        else:
            x = tl.dot(x, W2_high)
        x = tl.where(counted[:, None], gelu(x + b2_n, EXACT, False), 0.0)
        at = messages + (m * STATES + state)[:, None] * H + h[None, :]
        tl.store(at, x.to(messages.dtype.element_ty), mask=inside)


@triton.jit
def node_update(
    h_V,  # (NODES, H) float32
    summed,  # (R, H) float32
    nodes,  # (NODES,)
    degree, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2,
    LAYERS: tl.constexpr, H: tl.constexpr, EXACT: tl.constexpr, WIDTH: tl.constexpr,
    WIDE_STAGES: tl.constexpr,
):  # fmt: skip
    """The states of R rows, one layer on; those of the other NODES - R repeat them."""
    NODES: tl.constexpr = h_V.shape[0]
    R: tl.constexpr = summed.shape[0]
    h = tl.arange(0, H)
    spread = tl.broadcast_to(summed[None, :, :], (NODES // R, R, H))
    summed = tl.reshape(spread, (NODES, H))
    message = product(summed, W3, h, h, H, LAYERS * H * H, EXACT)
    message += tl.load(degree + nodes)[:, None] * tl.load(b3 + h)[None, :]
    h_V = norm(h_V + message / MESSAGE_SCALE, norm1, bias1, h, H)
    out = tl.zeros((NODES, H), tl.float32) + tl.load(b_out + h)[None, :]
    w = tl.arange(0, WIDTH)
    for c in tl.range(0, 4 * H, WIDTH, num_stages=WIDE_STAGES):
        wide = product(h_V, W_in + c * H, h, w, H, LAYERS * 4 * H * H, EXACT)
        wide = gelu(wide + tl.load(b_in + c + w)[None, :], EXACT, False)
        out += product(wide, W_out + c, w, h, 4 * H, LAYERS * 4 * H * H, EXACT)
    return norm(h_V + out, norm2, bias2, h, H)


@triton.jit(do_not_specialize=["M", "N"])
def layer_of_rows(
    states, next_states, nodes_of, M, N,
    here, table, edges, reads, valid, degree,
    DA, b1, W2, b2, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2,
    LAYERS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, R: tl.constexpr,
    EXACT: tl.constexpr, WHOLE: tl.constexpr, STAGES: tl.constexpr, WIDTH: tl.constexpr,
    WIDE_STAGES: tl.constexpr,
):  # fmt: skip
    """One decoder layer on all M rows, their tables being known: states (M, H) -> next_states."""
    h = tl.arange(0, H)
    n = tl.arange(0, NODE_ROWS if R < NODE_ROWS else R)
    m = tl.arange(0, KB * R)
    first = tl.program_id(0) * R
    node_rows = tl.minimum(first + n % R, M - 1).to(tl.int64)
    edge_rows = tl.minimum(first + row_of_edge(m, R), M - 1).to(tl.int64)
    nodes = tl.load(nodes_of + node_rows).to(tl.int64)
    edge_nodes = tl.load(nodes_of + edge_rows).to(tl.int64)
    h_V = tl.load(states + node_rows[:, None] * H + h[None, :])
    of_node = decoded_and_node(h_V, DA, b1, LAYERS, H, EXACT)[1]
    summed = summed_messages(
        of_node, edge_rows, edge_nodes, here + tl.program_id(0) * R * H, table, edges, reads, valid,
        W2, b2, LAYERS, H, K, KB, R, EXACT, WHOLE, STAGES,
    )  # fmt: skip
    h_V = node_update(
        h_V, summed, nodes, degree, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2,
        LAYERS, H, EXACT, WIDTH, WIDE_STAGES,
    )  # fmt: skip
    counted = (n < R) & (first + n < M)
    tl.store(next_states + node_rows[:, None] * H + h[None, :], h_V, mask=counted[:, None])


@triton.jit
def layer_of_levels(
    layer, h_V, own, counted, edge_rows, edge_nodes, here, table, table_size, edges, edges_size,
    reads, valid, DA, b1, W2, b2,
    LAYERS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, R: tl.constexpr,
    EXACT: tl.constexpr, WHOLE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`summed_messages` of a layer of `decode_levels`, which writes D h_V into its table first."""
    layer_table = table + layer * table_size
    known, of_node = decoded_and_node(h_V, DA + layer * 2 * H * H, b1 + layer * H, LAYERS, H, EXACT)
    tl.store(layer_table + own, known.to(table.dtype.element_ty), mask=counted[:, None])
    return summed_messages(
        of_node, edge_rows, edge_nodes, here, layer_table, edges + layer * edges_size, reads, valid,
        W2 + layer * H * H, b2 + layer * H, LAYERS, H, K, KB, R, EXACT, WHOLE, STAGES,
    )  # fmt: skip


@triton.jit(do_not_specialize=["M", "N", "MEMBERS"])
def decode_levels(
    order, bounds, depth, counters, MEMBERS,
    nodes_of, encoded, here, table, edges, messages, places, reads, valid, degree, M, N,
    DA, b1, W2, b2, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2,
    residues, W_letters, b_letters,
    temperature, bias, omit, uniform, designed, tokens, logits, probabilities,
    MOST_LEVELS,
    LAYERS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, R: tl.constexpr,
    EXACT: tl.constexpr, WHOLE: tl.constexpr, STAGES: tl.constexpr, WIDTH: tl.constexpr,
    WIDE_STAGES: tl.constexpr, ALONE: tl.constexpr, KNOWN: tl.constexpr,
    SLOTS: tl.constexpr, KNOWN_STAGES: tl.constexpr,
):  # fmt: skip
    """All levels of all sequences: states, logits, residues, tables.

    KNOWN: `messages` holds those of the first layer, whose table is neither written nor read.

    Program p is member p // teams of team p % teams. order (M,) holds the rows by team and level,
    bounds (teams, MOST_LEVELS + 1) where each level starts in it, depth (teams,) their number.
    """
    teams = tl.num_programs(0) // MEMBERS
    team = tl.program_id(0) % teams
    member = tl.program_id(0) // teams
    h = tl.arange(0, H)
    n = tl.arange(0, NODE_ROWS if R < NODE_ROWS else R)
    m = tl.arange(0, KB * R)
    letter = tl.arange(0, COLUMNS)
    here += tl.program_id(0) * R * H
    places += tl.program_id(0) * R * SLOTS
    table_size = (N + M).to(tl.int64) * H
    edges_size = N.to(tl.int64) * K * H
    levels = tl.load(depth + team)
    for level in range(levels):
        begin = tl.load(bounds + team * (MOST_LEVELS + 1) + level)
        end = tl.load(bounds + team * (MOST_LEVELS + 1) + level + 1)
        for first in range(begin + member * R, end, MEMBERS * R):
            counted = (n < R) & (first + n < end)
            node_rows = tl.load(order + tl.minimum(first + n % R, end - 1)).to(tl.int64)
            edge_rows = tl.load(order + tl.minimum(first + row_of_edge(m, R), end - 1)).to(tl.int64)
            nodes = tl.load(nodes_of + node_rows).to(tl.int64)
            edge_nodes = tl.load(nodes_of + edge_rows).to(tl.int64)
            own = (N + node_rows)[:, None] * H + h[None, :]  # their rows of a table
            h_V = tl.load(encoded + nodes[:, None] * H + h[None, :])
            for layer in range(LAYERS):
                if KNOWN and layer == 0:
                    summed = known_messages(
                        order, first, end, nodes_of, places, messages, reads, tokens, N,
                        H, K, SLOTS, KB, R, KNOWN_STAGES,
                    )  # fmt: skip
                else:
                    summed = layer_of_levels(
                        layer, h_V, own, counted, edge_rows, edge_nodes, here, table,
                        table_size, edges, edges_size, reads, valid, DA, b1, W2, b2,
                        LAYERS, H, K, KB, R, EXACT, WHOLE, STAGES,
                    )  # fmt: skip
                h_V = node_update(
                    h_V, summed, nodes, degree,
                    W3 + layer * H * H, b3 + layer * H, norm1 + layer * H, bias1 + layer * H,
                    W_in + layer * 4 * H * H, b_in + layer * 4 * H,
                    W_out + layer * 4 * H * H, b_out + layer * H, norm2 + layer * H,
                    bias2 + layer * H,
                    LAYERS, H, EXACT, WIDTH, WIDE_STAGES,
                )  # fmt: skip
            x = product(h_V, W_letters, h, letter, H, COLUMNS * H, EXACT)
            x += tl.load(b_letters + letter)[None, :]
            cell = node_rows[:, None] * LETTERS + letter[None, :]
            real = (letter < LETTERS)[None, :] & counted[:, None]
            tl.store(logits + cell, x, mask=real)
            heat = tl.load(temperature + node_rows)[:, None]
            x = x / heat + tl.load(bias + cell, mask=real, other=0.0) / heat
            x = tl.where(tl.load(omit + cell, mask=real, other=1) != 0, float("-inf"), x)
            # Rows that do not count are all -inf: any maximum does, and what follows is unused.
            x = tl.exp(x - tl.maximum(tl.max(x, 1), -1e30)[:, None])
            p = x / tl.maximum(tl.sum(x, 1), 1e-30)[:, None]
            chosen = counted & (tl.load(designed + node_rows) != 0)
            tl.store(probabilities + cell, p, mask=real & chosen[:, None])
            cumulative = tl.cumsum(p.to(tl.float64), 1)
            whole = tl.max(cumulative, 1)
            mark = tl.load(uniform + node_rows) * whole
            passed = (cumulative <= mark[:, None]) & (letter < LETTERS)[None, :]
            drawn = tl.sum(passed.to(tl.int32), 1)
            last_possible = tl.max(tl.where(p > 0, letter[None, :], 0), 1)
            drawn = tl.minimum(drawn, last_possible)
            token = tl.where(chosen, drawn, tl.load(tokens + node_rows).to(tl.int32))
            tl.store(tokens + node_rows, token.to(tokens.dtype.element_ty), mask=chosen)
            tl.debug_barrier()  # D h has been stored
            for layer in range(1 if KNOWN else 0, LAYERS):
                layer_table = table + layer * table_size
                mine = residues + layer * (H * LETTERS)
                known = tl.load(layer_table + own).to(tl.float32)
                known += tl.load(mine + token[:, None] * H + h[None, :])
                tl.store(layer_table + own, known.to(table.dtype.element_ty), mask=counted[:, None])
        tl.debug_barrier()
        if not ALONE:
            tl.atomic_add(counters + team, 1, sem="acq_rel", scope="gpu")
            arrived = tl.atomic_add(counters + team, 0, sem="acq_rel", scope="gpu")
            while arrived < MEMBERS * (level + 1):
                arrived = tl.atomic_add(counters + team, 0, sem="acq_rel", scope="gpu")
            tl.debug_barrier()


@triton.jit(do_not_specialize=["N"])
def five_atoms(atoms, coords, N, BLOCK: tl.constexpr):
    """N, CA, C, O and the CB of an idealised residue, as `features.with_virtual_cb`.

    coords (N, 4, 3) -> atoms (5, 3, N), both float32, Å.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = i < N
    at = coords + i * 12
    for k in range(12):
        tl.store(atoms + k * N + i, tl.load(at + k, mask=real), mask=real)
    bx = tl.load(at + 3, mask=real) - tl.load(at, mask=real)
    by = tl.load(at + 4, mask=real) - tl.load(at + 1, mask=real)
    bz = tl.load(at + 5, mask=real) - tl.load(at + 2, mask=real)
    cx = tl.load(at + 6, mask=real) - tl.load(at + 3, mask=real)
    cy = tl.load(at + 7, mask=real) - tl.load(at + 4, mask=real)
    cz = tl.load(at + 8, mask=real) - tl.load(at + 5, mask=real)
    x = -0.58273431 * (by * cz - bz * cy) + 0.56802827 * bx - 0.54067466 * cx
    y = -0.58273431 * (bz * cx - bx * cz) + 0.56802827 * by - 0.54067466 * cy
    z = -0.58273431 * (bx * cy - by * cx) + 0.56802827 * bz - 0.54067466 * cz
    tl.store(atoms + 12 * N + i, x + tl.load(at + 3, mask=real), mask=real)
    tl.store(atoms + 13 * N + i, y + tl.load(at + 4, mask=real), mask=real)
    tl.store(atoms + 14 * N + i, z + tl.load(at + 5, mask=real), mask=real)


@triton.jit(do_not_specialize=["E", "N"])
def edge_features(
    features, atoms, first, second, neighbours, index, chain, offsets, centres, W_rbf, W_e, b_e,
    weight, bias, E, N,
    SCALE: tl.constexpr, PAIRS: tl.constexpr, GAUSSIANS: tl.constexpr, MAX_OFFSET: tl.constexpr,
    H: tl.constexpr, K: tl.constexpr, EDGES: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """W_e of the embedded, normalised features of EDGES edges: features (E, H).

    atoms (5, 3, N) float32, Å; first and second (PAIRS,) are the atoms of a pair; offsets (66, H)
    what a class of residue offsets adds to the embedding, the last one another chain's.
    """
    h = tl.arange(0, H)
    g = tl.arange(0, GAUSSIANS)
    m = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    real = m < E
    node = tl.where(real, m // K, 0)
    there = tl.load(neighbours + m, mask=real, other=0)
    centre = tl.load(centres + g)[None, :]
    embedded = tl.zeros((EDGES, H), tl.float32)
    for pair in range(PAIRS):
        a = atoms + tl.load(first + pair) * 3 * N
        b = atoms + tl.load(second + pair) * 3 * N
        x = tl.load(a + node) - tl.load(b + there)
        y = tl.load(a + N + node) - tl.load(b + N + there)
        z = tl.load(a + 2 * N + node) - tl.load(b + 2 * N + there)
        distance = tl.sqrt_rn(x * x + y * y + z * z + 1e-6)
        scaled = (distance[:, None] - centre) * SCALE
        rbf = tl.exp(-scaled * scaled)
        WIDTH: tl.constexpr = PAIRS * GAUSSIANS
        embedded += product(rbf, W_rbf + pair * GAUSSIANS, g, h, WIDTH, H * WIDTH, EXACT)
    offset = tl.load(index + node) - tl.load(index + there) + MAX_OFFSET
    offset = tl.minimum(tl.maximum(offset, 0), 2 * MAX_OFFSET)
    same = tl.load(chain + node) == tl.load(chain + there)
    offset = tl.where(same, offset, 2 * MAX_OFFSET + 1)
    embedded += tl.load(offsets + offset[:, None] * H + h[None, :])
    x = product(norm(embedded, weight, bias, h, H), W_e, h, h, H, H * H, EXACT)
    x += tl.load(b_e + h)[None, :]
    at = features + m[:, None] * H + h[None, :]
    tl.store(at, x.to(features.dtype.element_ty), mask=real[:, None])


@triton.jit
def edge_input(x, here, there, B, node, other, h, H: tl.constexpr, EXACT: tl.constexpr):
    """W1 [h_i, h_ij, h_j] + b: B h_ij, and what was computed per node, A h_i + b and C h_j."""
    x = product(x, B, h, h, H, H * H, EXACT)
    x += tl.load(here + node[:, None] * 2 * H + h[None, :]).to(tl.float32)
    return x + tl.load(there + other[:, None] * 2 * H + h[None, :]).to(tl.float32)


@triton.jit(do_not_specialize=["N"])
def encoder_nodes(
    states, next_states, of_nodes, h_E, neighbours, valid, degree,
    B, W2, b2, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2, N,
    H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, R: tl.constexpr, EXACT: tl.constexpr,
    WIDTH: tl.constexpr, WIDE_STAGES: tl.constexpr,
):  # fmt: skip
    """The messages and the node update of an encoder layer: states (N, H) -> next_states.

    of_nodes (N, 2 H) are A h_i + b and C h_i. GELU is the erf form in both tiers.
    """
    h = tl.arange(0, H)
    n = tl.arange(0, NODE_ROWS if R < NODE_ROWS else R)
    m = tl.arange(0, KB * R)
    first = tl.program_id(0) * R
    nodes = tl.minimum(first + n % R, N - 1).to(tl.int64)
    edge_nodes = tl.minimum(first + row_of_edge(m, R), N - 1).to(tl.int64)
    slot = slot_of_edge(m, R)
    total = tl.zeros((KB * R // 16, 8, H), tl.float32)
    for k in tl.range(0, K, KB):
        inside = k + slot < K
        edge = edge_nodes * K + k + slot
        x = tl.load(h_E + edge[:, None] * H + h[None, :], mask=inside[:, None], other=0)
        other = tl.load(neighbours + edge, mask=inside, other=0)
        x = edge_input(x, of_nodes, of_nodes + H, B, edge_nodes, other, h, H, EXACT)
        x = product(gelu(x, True, False), W2, h, h, H, H * H, EXACT)
        x = gelu(x + tl.load(b2 + h)[None, :], True, False)
        counted = tl.load(valid + edge, mask=inside, other=0) != 0
        x = tl.where(counted[:, None], x, 0.0)
        total += tl.sum(tl.reshape(x, (KB * R // 16, 2, 8, H)), 1)
    summed = tl.sum(tl.reshape(total, (KB // 2, R, H)), 0)
    h_V = tl.load(states + nodes[:, None] * H + h[None, :])
    h_V = node_update(
        h_V, summed, nodes, degree, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2,
        1, H, EXACT, WIDTH, WIDE_STAGES,
    )  # fmt: skip
    counted = (n < R) & (first + n < N)
    tl.store(next_states + nodes[:, None] * H + h[None, :], h_V, mask=counted[:, None])


@triton.jit(do_not_specialize=["E"])
def encoder_edges(
    h_E, of_nodes, neighbours, B, W12, b12, W13, b13, norm3, bias3, E,
    H: tl.constexpr, K: tl.constexpr, EDGES: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The edge update of an encoder layer, in place: h_E (E, H)."""
    h = tl.arange(0, H)
    m = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    real = m < E
    node = tl.where(real, m // K, 0)
    other = tl.load(neighbours + m, mask=real, other=0)
    at = h_E + m[:, None] * H + h[None, :]
    before = tl.load(at, mask=real[:, None], other=0)
    x = edge_input(before, of_nodes, of_nodes + H, B, node, other, h, H, EXACT)
    x = product(gelu(x, True, False), W12, h, h, H, H * H, EXACT)
    x = gelu(x + tl.load(b12 + h)[None, :], True, False)
    x = product(x, W13, h, h, H, H * H, EXACT) + tl.load(b13 + h)[None, :]
    x = norm(before.to(tl.float32) + x, norm3, bias3, h, H)
    tl.store(at, x.to(h_E.dtype.element_ty), mask=real[:, None])


@triton.jit(do_not_specialize=["N"])
def find_levels(
    by_rank, starts, rank, neighbours, nodes_of, reads, level, N,
    K: tl.constexpr, SLOTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Table rows that each edge reads, and the level of each row; one program per sequence.

    by_rank (M,) lists the rows of a sequence in decoding order. Taken in that order, ROWS at a
    time, rows depend on earlier ones and on each other alone: each set settles in a few rounds.
    """
    first = tl.load(starts + tl.program_id(0))
    end = tl.load(starts + tl.program_id(0) + 1)
    k = tl.arange(0, SLOTS)[None, :]
    shift = first - tl.load(nodes_of + first)  # from a node to its row in this sequence
    for start in range(first, end, ROWS):
        place = start + tl.arange(0, ROWS)
        real = place < end
        rows = tl.load(by_rank + place, mask=real, other=0).to(tl.int64)
        mine = tl.load(rank + rows, mask=real, other=0)
        inside = real[:, None] & (k < K)
        node = tl.load(nodes_of + rows, mask=real, other=0).to(tl.int64)
        undecoded = tl.load(neighbours + node[:, None] * K + k, mask=inside, other=0)
        copy = tl.where(inside, undecoded + shift, 0)
        theirs = tl.load(rank + copy, mask=inside, other=0)
        before = inside & (theirs < mine[:, None])
        at = tl.where(before, copy + N, undecoded)
        tl.store(reads + rows[:, None] * K + k, at.to(tl.int32), mask=inside)
        found = tl.full((ROWS,), 0, tl.int32)
        tl.store(level + rows, found, mask=real)
        changed = 1
        while changed > 0:
            tl.debug_barrier()
            known = tl.load(level + copy, mask=before, other=-1)
            deeper = tl.max(known, 1) + 1
            changed = tl.sum(((deeper != found) & real).to(tl.int32), 0)
            found = deeper
            tl.debug_barrier()
            tl.store(level + rows, found, mask=real)
        tl.debug_barrier()


@triton.jit
def philox_round(a, b, c, d, key0, key1):
    M0 = tl.full(a.shape, 0xD2E7470EE14C6C93, tl.uint64)
    M1 = tl.full(a.shape, 0xCA5A826395121157, tl.uint64)
    return tl.umulhi(M1, c) ^ b ^ key0, M1 * c, tl.umulhi(M0, a) ^ d ^ key1, M0 * a


@triton.jit(do_not_specialize=["stream"])
def philox_uniforms(drawn, keys, starts, stream, BLOCK: tl.constexpr):
    """`noise.uniform_numbers` bit for bit: numpy's Philox4x64-10, four numbers of a counter.

    Program (s, p): BLOCK positions, from the p-th BLOCK on, of the s-th sequence. keys are the
    seed, the number of every sequence, and the digest of its structure.
    """
    first = tl.load(starts + tl.program_id(0))
    length = tl.load(starts + tl.program_id(0) + 1) - first
    position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    zero = tl.zeros((BLOCK,), tl.uint64)
    sequence = keys + 1 + tl.program_id(0)
    digest = tl.load(sequence + tl.num_programs(0))
    a, b = zero + (position // 4 + 1).to(tl.uint64), zero + digest.to(tl.uint64)
    c, d = zero, zero + stream.to(tl.uint64)
    key0 = zero + tl.load(keys).to(tl.uint64)
    key1 = zero + tl.load(sequence).to(tl.uint64)
    for _ in tl.static_range(10):
        a, b, c, d = philox_round(a, b, c, d, key0, key1)
        key0 += tl.full((BLOCK,), 0x9E3779B97F4A7C15, tl.uint64)
        key1 += tl.full((BLOCK,), 0xBB67AE8584CAA73B, tl.uint64)
    lane = position % 4
    word = tl.where(lane < 2, tl.where(lane == 0, a, b), tl.where(lane == 2, c, d))
    uniform = (word >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)
    tl.store(drawn + first + position, uniform, mask=position < length)
