"""Pooling, ToMe and EViT a second time: slow, photo by photo and token by token, from the papers' text.

ToMe: D. Bolya et al., arXiv 2210.09461, section 3. EViT: Y. Liang et al., arXiv 2202.07800, section 3. The weights are
those of a timm ViT; nothing is shared with encoders/reduction.py. All functions take one photo, (1, 3, S, S).
"""

import math

import torch


def start(vit, photo):
    """The tokens before the first block, as a list of vectors."""
    return list(vit.norm_pre(vit._pos_embed(vit.patch_embed(photo)))[0])


def finish(vit, tokens):
    return vit.norm(torch.stack(tokens))


def attention(block, tokens, sizes):
    """What attention adds to each token, every head's weights (N, N), and every token's mean key.

    The weight of token j for token i is sizes[j] * exp(q_i k_j / sqrt(d)), normalized.
    """
    normed = block.norm1(torch.stack(tokens))
    attn, n, counts = block.attn, len(tokens), torch.tensor(sizes)
    width = attn.num_heads * attn.head_dim
    q, k, v = attn.qkv(normed).split(width, dim=1)
    heads, weights, keys = [], [], []
    for h in range(attn.num_heads):
        own = slice(h * attn.head_dim, (h + 1) * attn.head_dim)
        qh, kh, vh = attn.q_norm(q[:, own]), attn.k_norm(k[:, own]), v[:, own]
        table = torch.empty(n, n, dtype=qh.dtype)
        for i in range(n):
            row = counts * torch.exp(kh @ qh[i] / math.sqrt(attn.head_dim))
            table[i] = row / row.sum()
        heads.append(table @ vh)
        weights.append(table)
        keys.append(kh)
    mean_keys = [sum(each[i] for each in keys) / len(keys) for i in range(n)]
    return list(block.ls1(attn.proj(torch.cat(heads, dim=1)))), weights, mean_keys


def mlp(block, tokens):
    return [token + block.ls2(block.mlp(block.norm2(token[None])))[0] for token in tokens]


def pooled(vit, photo, side):
    """The mean of the patches of each cell of a side x side grid, whose cells overlap where they must."""
    tokens = start(vit, photo)
    for block in vit.blocks:
        added, _, _ = attention(block, tokens, [1] * len(tokens))
        tokens = mlp(block, [token + more for token, more in zip(tokens, added, strict=True)])
    patches = finish(vit, tokens)[vit.num_prefix_tokens :]
    grid = math.isqrt(len(patches))

    def span(i):
        return range(i * grid // side, math.ceil((i + 1) * grid / side))

    return torch.stack(
        [
            torch.stack([patches[y * grid + x] for y in span(row) for x in span(column)]).mean(dim=0)
            for row in range(side)
            for column in range(side)
        ]
    )


def tome(vit, photo, r):
    """The tokens after token merging, prefix first; r may differ from block to block."""
    tokens, prefix = start(vit, photo), vit.num_prefix_tokens
    sizes = [1] * len(tokens)
    for number, block in enumerate(vit.blocks):
        merge = r if isinstance(r, int) else r[number]
        added, _, keys = attention(block, tokens, sizes)
        tokens = [token + more for token, more in zip(tokens, added, strict=True)]
        ours = [i for i in range(prefix, len(tokens)) if i % 2 == 0]
        theirs = [i for i in range(prefix, len(tokens)) if i % 2 == 1]
        edges = []  # one from each of A to the most similar of B
        for a in ours:
            similar = [torch.cosine_similarity(keys[a], keys[b], dim=0).item() for b in theirs]
            edges.append((max(similar), a, theirs[similar.index(max(similar))]))
        edges.sort(reverse=True)
        groups = {b: [b] for b in theirs}
        for _, a, b in edges[: min(merge, (len(tokens) - prefix) // 2)]:
            groups[b].append(a)
        gone = {i for group in groups.values() for i in group[1:]}
        kept = [[i] for i in range(prefix)] + [[a] for a in ours if a not in gone] + list(groups.values())
        if not gone:
            tokens = mlp(block, tokens)  # nothing is reordered either
            continue
        merged = [sum(sizes[i] * tokens[i] for i in group) / sum(sizes[i] for i in group) for group in kept]
        sizes = [sum(sizes[i] for i in group) for group in kept]
        tokens = mlp(block, merged)
    assert sum(sizes[prefix:]) == vit.patch_embed.num_patches
    return finish(vit, tokens)


def evit(vit, photo, keep_rate, reduce_at):
    """The tokens after token reorganisation, prefix first and the fused token last.

    `reduce_at` may name the number of tokens that stay in each block beside the fused one; there is no rate then.
    """
    tokens, prefix = start(vit, photo), vit.num_prefix_tokens
    for number, block in enumerate(vit.blocks):
        added, weights, _ = attention(block, tokens, [1] * len(tokens))
        tokens = [token + more for token, more in zip(tokens, added, strict=True)]
        patches = range(prefix, len(tokens))
        keep = reduce_at.get(number, len(patches)) if keep_rate is None else math.ceil(keep_rate * len(patches))
        if number in reduce_at and keep < len(patches):
            asking = [0] if vit.has_class_token else range(len(tokens))
            received = {
                i: sum(table[row, i].item() for table in weights for row in asking) / (len(weights) * len(asking))
                for i in patches
            }
            best = sorted(patches, key=lambda i: -received[i])
            fused = sum(received[i] * tokens[i] for i in best[keep:])
            tokens = [*tokens[:prefix], *(tokens[i] for i in sorted(best[:keep])), fused]
        tokens = mlp(block, tokens)
    return finish(vit, tokens)
