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
def gelu(x, EXACT: tl.constexpr):
    """The erf form in float32, or the tanh form in float16."""
    if EXACT:
        return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif INTERPRETED:
        x = x.to(tl.float32)
        u = x * (0.7978845608 + 0.0356774081 * x * x)
        return (x * tl.sigmoid(2 * u)).to(tl.float16)
    else:
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


@triton.jit
def norm(x, weight, bias, h, H: tl.constexpr):
    mean = tl.sum(x, 1) / H
    x -= mean[:, None]
    scale = tl.rsqrt(tl.sum(x * x, 1) / H + EPSILON)
    return x * scale[:, None] * tl.load(weight + h)[None, :] + tl.load(bias + h)[None, :]


@triton.jit
def decoder_layer(
    h_V,  # (NODE_ROWS, H) float32
    node_rows, nodes,  # (NODE_ROWS,)
    edge_rows, edge_nodes,  # (KB * R,): rows and nodes of the tile's edges
    here, table, edges, reads, valid, degree,
    A, b1, W2, b2, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2,
    LAYERS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, R: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """One decoder layer on R rows; `here` is this block's scratch, (R, H)."""
    h = tl.arange(0, H)
    n = tl.arange(0, NODE_ROWS)
    tl.debug_barrier()  # `here` of the layer before has been read
    of_node = product(h_V, A, h, h, H, LAYERS * H * H, EXACT) + tl.load(b1 + h)[None, :]
    tl.store(
        here + n[:, None] * H + h[None, :], of_node.to(here.dtype.element_ty), mask=(n < R)[:, None]
    )
    tl.debug_barrier()
    m = tl.arange(0, KB * R)
    slot = m // R  # neighbours vary slowest: the sum over them stays within a thread's registers
    mine = here + ((m % R)[:, None] * H + h[None, :])
    W2_at = W2 + (h[None, :] * H + h[:, None])
    W2_high = tl.load(W2_at)
    if EXACT:
        W2_low = tl.load(W2_at + LAYERS * H * H)
    b2_n = tl.load(b2 + h)[None, :]
    total = tl.zeros((KB * R, H), tl.float32)
    for k in range(0, K, KB):
        inside = k + slot < K
        at = tl.load(reads + edge_rows * K + k + slot, mask=inside, other=0)
        edge = edge_nodes * K + k + slot
        x = tl.load(table + at.to(tl.int64)[:, None] * H + h[None, :])
        x += tl.load(edges + edge[:, None] * H + h[None, :], mask=inside[:, None], other=0)
        x = gelu(x + tl.load(mine), EXACT)
        if EXACT:
            x = exact_product(x, W2_high, W2_low)
        else:
            x = tl.dot(x, W2_high)
        x = gelu(x + b2_n, EXACT).to(tl.float32)
        counted = tl.load(valid + edge, mask=inside, other=0) != 0
        total += tl.where(counted[:, None], x, 0.0)
    summed = tl.sum(tl.reshape(total, (KB, R, H)), 0)  # (R, H)
    spread = tl.broadcast_to(summed[None, :, :], (NODE_ROWS // R, R, H))
    summed = tl.reshape(spread, (NODE_ROWS, H))
    message = product(summed, W3, h, h, H, LAYERS * H * H, EXACT)
    message += tl.load(degree + nodes)[:, None] * tl.load(b3 + h)[None, :]
    h_V = norm(h_V + message / MESSAGE_SCALE, norm1, bias1, h, H)
    out = tl.zeros((NODE_ROWS, H), tl.float32) + tl.load(b_out + h)[None, :]
    # Narrow parts where both halves of the weights are held, else they leave the registers.
    w = tl.arange(0, 32 if EXACT else H)
    for c in range(0, 4 * H, 32 if EXACT else H):
        wide = product(h_V, W_in + c * H, h, w, H, LAYERS * 4 * H * H, EXACT)
        wide = gelu(wide + tl.load(b_in + c + w)[None, :], EXACT)
        out += product(wide, W_out + c, w, h, 4 * H, LAYERS * 4 * H * H, EXACT)
    return norm(h_V + out, norm2, bias2, h, H)


@triton.jit(do_not_specialize=["M", "N"])
def layer_of_rows(
    states, next_states, nodes_of, M, N,
    here, table, edges, reads, valid, degree,
    A, b1, W2, b2, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2,
    LAYERS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, R: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """One decoder layer on all M rows, their tables being known: states (M, H) -> next_states."""
    h = tl.arange(0, H)
    n = tl.arange(0, NODE_ROWS)
    m = tl.arange(0, KB * R)
    first = tl.program_id(0) * R
    node_rows = tl.minimum(first + n % R, M - 1).to(tl.int64)
    edge_rows = tl.minimum(first + m % R, M - 1).to(tl.int64)
    nodes = tl.load(nodes_of + node_rows).to(tl.int64)
    edge_nodes = tl.load(nodes_of + edge_rows).to(tl.int64)
    h_V = tl.load(states + node_rows[:, None] * H + h[None, :])
    h_V = decoder_layer(
        h_V, node_rows, nodes, edge_rows, edge_nodes,
        here + tl.program_id(0) * R * H, table, edges, reads, valid, degree,
        A, b1, W2, b2, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2,
        LAYERS, H, K, KB, R, EXACT,
    )  # fmt: skip
    counted = (n < R) & (first + n < M)
    tl.store(next_states + node_rows[:, None] * H + h[None, :], h_V, mask=counted[:, None])


@triton.jit(do_not_specialize=["M", "N", "MEMBERS"])
def decode_levels(
    order, bounds, depth, counters, MEMBERS,
    nodes_of, encoded, here, table, edges, reads, valid, degree, M, N,
    A, b1, W2, b2, W3, b3, norm1, bias1, W_in, b_in, W_out, b_out, norm2, bias2,
    D, residues, W_letters, b_letters,
    temperature, bias, omit, uniform, designed, tokens, logits, probabilities,
    MOST_LEVELS,
    LAYERS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, R: tl.constexpr,
    EXACT: tl.constexpr, ALONE: tl.constexpr,
):  # fmt: skip
    """All levels of all sequences: states, logits, residues, tables.

    Program p is member p // teams of team p % teams. order (M,) holds the rows by team and level,
    bounds (teams, MOST_LEVELS + 1) where each level starts in it, depth (teams,) their number.
    """
    teams = tl.num_programs(0) // MEMBERS
    team = tl.program_id(0) % teams
    member = tl.program_id(0) // teams
    h = tl.arange(0, H)
    n = tl.arange(0, NODE_ROWS)
    m = tl.arange(0, KB * R)
    letter = tl.arange(0, COLUMNS)
    here += tl.program_id(0) * R * H
    table_size = (N + M).to(tl.int64) * H
    edges_size = N.to(tl.int64) * K * H
    levels = tl.load(depth + team)
    for level in range(levels):
        begin = tl.load(bounds + team * (MOST_LEVELS + 1) + level)
        end = tl.load(bounds + team * (MOST_LEVELS + 1) + level + 1)
        for first in range(begin + member * R, end, MEMBERS * R):
            counted = (n < R) & (first + n < end)
            node_rows = tl.load(order + tl.minimum(first + n % R, end - 1)).to(tl.int64)
            edge_rows = tl.load(order + tl.minimum(first + m % R, end - 1)).to(tl.int64)
            nodes = tl.load(nodes_of + node_rows).to(tl.int64)
            edge_nodes = tl.load(nodes_of + edge_rows).to(tl.int64)
            own = (N + node_rows)[:, None] * H + h[None, :]  # their rows of a table
            h_V = tl.load(encoded + nodes[:, None] * H + h[None, :])
            for layer in range(LAYERS):
                layer_table = table + layer * table_size
                known = product(h_V, D + layer * H * H, h, h, H, LAYERS * H * H, EXACT)
                tl.store(layer_table + own, known.to(table.dtype.element_ty), mask=counted[:, None])
                h_V = decoder_layer(
                    h_V, node_rows, nodes, edge_rows, edge_nodes,
                    here, layer_table, edges + layer * edges_size, reads, valid, degree,
                    A + layer * H * H, b1 + layer * H, W2 + layer * H * H, b2 + layer * H,
                    W3 + layer * H * H, b3 + layer * H, norm1 + layer * H, bias1 + layer * H,
                    W_in + layer * 4 * H * H, b_in + layer * 4 * H,
                    W_out + layer * 4 * H * H, b_out + layer * H, norm2 + layer * H,
                    bias2 + layer * H,
                    LAYERS, H, K, KB, R, EXACT,
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
            for layer in range(LAYERS):
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


@triton.jit(do_not_specialize=["seed", "stream"])
def uniforms(drawn, sequences, starts, seed, stream, BLOCK: tl.constexpr):
    """`sampler.uniforms` bit for bit: numpy's Philox4x64-10, four numbers of a counter.

    Program (s, p): BLOCK positions, from the p-th BLOCK on, of the s-th sequence.
    """
    first = tl.load(starts + tl.program_id(0))
    length = tl.load(starts + tl.program_id(0) + 1) - first
    position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    zero = tl.zeros((BLOCK,), tl.uint64)
    a, b, c, d = zero + (position // 4 + 1).to(tl.uint64), zero, zero, zero + stream.to(tl.uint64)
    key0 = zero + seed.to(tl.uint64)
    key1 = zero + tl.load(sequences + tl.program_id(0)).to(tl.uint64)
    for _ in tl.static_range(10):
        a, b, c, d = philox_round(a, b, c, d, key0, key1)
        key0 += tl.full((BLOCK,), 0x9E3779B97F4A7C15, tl.uint64)
        key1 += tl.full((BLOCK,), 0xBB67AE8584CAA73B, tl.uint64)
    lane = position % 4
    word = tl.where(lane < 2, tl.where(lane == 0, a, b), tl.where(lane == 2, c, d))
    uniform = (word >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)
    tl.store(drawn + first + position, uniform, mask=position < length)
