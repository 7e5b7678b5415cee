"""SALMONN's audio half in PyTorch, float32: what every exported graph is compared with.

Parts carry the names of the official checkpoints, so that a state dict loads as it is.

Source: bytedance/SALMONN (branch salmonn), microsoft/unilm BEATs, openai/whisper, BLIP-2's
Q-Former, re-derived from their published behaviour. Differences: inference only, no layer drop; the
relative position table is held once, by layer 0; Whisper takes any length up to its position table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name every PyTorch reader expects

from .dims import BeatsDims, QFormerDims, WhisperDims

# --- Whisper -------------------------------------------------------------------------------------


class WhisperAttention(nn.Module):
    """Plain self-attention; `k_proj` has no bias."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model)
        self.q_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, n_frames, d_model] -> the same."""
        q, k, v = (split_heads(p(x), self.n_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return self.out_proj(merge_heads(scores.softmax(-1) @ v))  # type: ignore[no-any-return]


class WhisperLayer(nn.Module):
    """One pre-LN block."""

    def __init__(self, dims: WhisperDims) -> None:
        super().__init__()
        self.self_attn = WhisperAttention(dims.d_model, dims.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(dims.d_model)
        self.fc1 = nn.Linear(dims.d_model, dims.encoder_ffn_dim)
        self.fc2 = nn.Linear(dims.encoder_ffn_dim, dims.d_model)
        self.final_layer_norm = nn.LayerNorm(dims.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, n_frames, d_model] -> the same."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))  # type: ignore[no-any-return]


class WhisperEncoder(nn.Module):
    """Log-mel to speech features; keys as under `model.encoder.` of a Hugging Face checkpoint."""

    def __init__(self, dims: WhisperDims) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(dims.num_mel_bins, dims.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(dims.d_model, dims.d_model, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(dims.max_source_positions, dims.d_model)
        self.layers = nn.ModuleList(WhisperLayer(dims) for _ in range(dims.encoder_layers))
        self.layer_norm = nn.LayerNorm(dims.d_model)

    def forward(self, log_mel: Tensor) -> Tensor:
        """[batch, n_mels, n_mel_frames] -> [batch, n_mel_frames / 2, d_model]."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(log_mel)))).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)  # type: ignore[no-any-return]


# --- BEATs ---------------------------------------------------------------------------------------


class WeightNormConv(nn.Module):
    """Grouped convolution over time whose kernel is normed per tap: w[:, :, k] = g[k] v / |v|."""

    def __init__(self, dims: BeatsDims) -> None:
        super().__init__()
        d, groups = dims.encoder_embed_dim, dims.conv_pos_groups
        self.groups = groups
        self.weight_g = nn.Parameter(torch.ones(1, 1, dims.conv_pos))
        self.weight_v = nn.Parameter(torch.empty(d, d // groups, dims.conv_pos))
        self.bias = nn.Parameter(torch.zeros(d))
        nn.init.normal_(self.weight_v, std=math.sqrt(4 / (dims.conv_pos * d)))
        with torch.no_grad():
            self.weight_g.copy_(self.weight_v.norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, d, n] -> the same; an even kernel gives one step too many, which is dropped."""
        norm = self.weight_v.norm(dim=(0, 1), keepdim=True)
        weight = self.weight_v * (self.weight_g / norm)
        taps = weight.shape[-1]
        y = F.conv1d(x, weight, self.bias, padding=taps // 2, groups=self.groups)
        return F.gelu(y[:, :, :-1] if taps % 2 == 0 else y)


class BeatsAttention(nn.Module):
    """Self-attention with a relative-position bias that each query gates for itself."""

    def __init__(self, dims: BeatsDims, *, owns_bias_table: bool) -> None:
        super().__init__()
        d, n_heads = dims.encoder_embed_dim, dims.encoder_attention_heads
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d, d)
        self.k_proj = nn.Linear(d, d)
        self.v_proj = nn.Linear(d, d)
        self.out_proj = nn.Linear(d, d)
        self.grep_linear = nn.Linear(d // n_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, n_heads, 1, 1))
        if owns_bias_table:
            self.relative_attention_bias = nn.Embedding(dims.num_buckets, n_heads)

    def forward(self, x: Tensor, position_bias: Tensor, key_mask: Tensor | None) -> Tensor:
        """x [batch, n, d], position_bias [n_heads, n, n], key_mask [batch, n] True where padded."""
        q, k, v = (split_heads(p(x), self.n_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        # [batch, n_heads, n, 8] -> two gates a position, from the query before scaling.
        gates = self.grep_linear(q)
        gates = gates.view(*gates.shape[:-1], 2, 4).sum(-1).sigmoid()
        a, b = gates.split(1, dim=-1)
        gate = a * (b * self.grep_a - 1) + 2
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + gate * position_bias
        if key_mask is not None:
            scores = scores.masked_fill(key_mask[:, None, None, :], -math.inf)
        return self.out_proj(merge_heads(scores.softmax(-1) @ v))  # type: ignore[no-any-return]


class BeatsLayer(nn.Module):
    """One post-LN block with DeepNorm residuals."""

    def __init__(self, dims: BeatsDims, *, first: bool) -> None:
        super().__init__()
        d = dims.encoder_embed_dim
        self.alpha = (2 * dims.encoder_layers) ** 0.25
        self.self_attn = BeatsAttention(dims, owns_bias_table=first)
        self.self_attn_layer_norm = nn.LayerNorm(d)
        self.fc1 = nn.Linear(d, dims.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(dims.encoder_ffn_embed_dim, d)
        self.final_layer_norm = nn.LayerNorm(d)

    def forward(self, x: Tensor, position_bias: Tensor, key_mask: Tensor | None) -> Tensor:
        """[batch, n, d] -> the same."""
        attended = self.self_attn(x, position_bias, key_mask)
        x = self.self_attn_layer_norm(self.alpha * x + attended)
        return self.final_layer_norm(  # type: ignore[no-any-return]
            self.alpha * x + self.fc2(F.gelu(self.fc1(x)))
        )


def relative_buckets(n: int, *, num_buckets: int, max_distance: int) -> Tensor:
    """Bucket of every (query i, key j): int64 [n, n]; exact up to num_buckets / 4, then by log."""
    position = torch.arange(n)
    d = position[None, :] - position[:, None]
    half = num_buckets // 2
    exact = half // 2
    ratio = torch.log(d.abs().float().clamp(min=1) / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(d > 0, half, 0) + torch.where(d.abs() < exact, d.abs(), far)


class BeatsEncoder(nn.Module):
    """Convolutional positions, then the blocks."""

    def __init__(self, dims: BeatsDims) -> None:
        super().__init__()
        self.dims = dims
        self.pos_conv = nn.ModuleList([WeightNormConv(dims)])  # `pos_conv.0`, as in the checkpoint
        self.layer_norm = nn.LayerNorm(dims.encoder_embed_dim)
        self.layers = nn.ModuleList(
            BeatsLayer(dims, first=i == 0) for i in range(dims.encoder_layers)
        )

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """x [batch, n, d]; padding_mask [batch, n], True where padded (batched training only)."""
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[..., None], 0.0)
        x = x + self.pos_conv[0](x.transpose(1, 2)).transpose(1, 2)
        x = self.layer_norm(x)
        buckets = relative_buckets(
            x.shape[1], num_buckets=self.dims.num_buckets, max_distance=self.dims.max_distance
        )
        table = self.layers[0].self_attn.relative_attention_bias  # type: ignore[union-attr]
        position_bias = table(buckets).permute(2, 0, 1)  # type: ignore[operator]
        for layer in self.layers:
            x = layer(x, position_bias, padding_mask)
        return x


class BEATs(nn.Module):
    """Normalised Kaldi fbank to sound features, 8 tokens (frequency bands) per 160 ms patch."""

    def __init__(self, dims: BeatsDims) -> None:
        super().__init__()
        p = dims.input_patch_size
        self.dims = dims
        self.patch_embedding = nn.Conv2d(1, dims.embed_dim, p, stride=p, bias=False)
        self.layer_norm = nn.LayerNorm(dims.embed_dim)
        self.post_extract_proj = (
            nn.Linear(dims.embed_dim, dims.encoder_embed_dim)
            if dims.embed_dim != dims.encoder_embed_dim
            else None
        )
        self.encoder = BeatsEncoder(dims)

    def forward(self, fbank: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """[batch, n_fbank_frames, 128] -> [batch, 8 * (n_fbank_frames // 16), d_audio]."""
        x = self.patch_embedding(fbank[:, None])  # [batch, embed_dim, n_frames // 16, 8]
        x = self.layer_norm(x.flatten(2).transpose(1, 2))
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        return self.encoder(x, padding_mask)  # type: ignore[no-any-return]


# --- Q-Former ------------------------------------------------------------------------------------


class BertSelfAttention(nn.Module):
    """Query, key and value of BERT attention; keys and values may come from elsewhere."""

    def __init__(self, hidden: int, n_heads: int, d_context: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(d_context, hidden)
        self.value = nn.Linear(d_context, hidden)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [batch, n_queries, hidden], context [batch, n, d_context] -> as x."""
        q = split_heads(self.query(x), self.n_heads)
        k, v = (split_heads(p(context), self.n_heads) for p in (self.key, self.value))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return merge_heads(scores.softmax(-1) @ v)


class BertOutput(nn.Module):
    """Dense, then residual and LayerNorm."""

    def __init__(self, d_in: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(d_in, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """[..., d_in] and [..., hidden] -> [..., hidden]."""
        return self.LayerNorm(self.dense(x) + residual)  # type: ignore[no-any-return]


class BertAttention(nn.Module):
    """Attention with its output block, under BERT's names `self` and `output`."""

    def __init__(self, hidden: int, n_heads: int, d_context: int) -> None:
        super().__init__()
        self.self = BertSelfAttention(hidden, n_heads, d_context)
        self.output = BertOutput(hidden, hidden)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [batch, n_queries, hidden], context [batch, n, d_context] -> as x."""
        return self.output(self.self(x, context), x)  # type: ignore[no-any-return]


class BertIntermediate(nn.Module):
    """The widening half of the feed-forward block."""

    def __init__(self, hidden: int, d_ffn: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, d_ffn)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., d_ffn]."""
        return F.gelu(self.dense(x))


class QFormerLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the window, feed-forward; all post-LN."""

    def __init__(self, dims: QFormerDims) -> None:
        super().__init__()
        hidden, n_heads = dims.hidden_size, dims.num_attention_heads
        self.attention = BertAttention(hidden, n_heads, hidden)
        self.crossattention = BertAttention(hidden, n_heads, dims.d_speech + dims.d_audio)
        self.intermediate_query = BertIntermediate(hidden, dims.intermediate_size)
        self.output_query = BertOutput(dims.intermediate_size, hidden)

    def forward(self, x: Tensor, window: Tensor) -> Tensor:
        """x [n_windows, n_queries, hidden], window [n_windows, window_frames, d] -> as x."""
        x = self.attention(x, x)
        x = self.crossattention(x, window)
        return self.output_query(self.intermediate_query(x), x)  # type: ignore[no-any-return]


class QFormerEncoder(nn.Module):
    """The stack, under BERT's name `encoder.layer`."""

    def __init__(self, dims: QFormerDims) -> None:
        super().__init__()
        self.layer = nn.ModuleList(QFormerLayer(dims) for _ in range(dims.num_hidden_layers))


class QFormerEmbeddings(nn.Module):
    """What is left of BERT's embeddings: one LayerNorm."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(hidden, eps=1e-12)


class QFormerBert(nn.Module):
    """`speech_Qformer.bert` of the checkpoint."""

    def __init__(self, dims: QFormerDims) -> None:
        super().__init__()
        self.embeddings = QFormerEmbeddings(dims.hidden_size)
        self.encoder = QFormerEncoder(dims)

    def forward(self, queries: Tensor, windows: Tensor) -> Tensor:
        """[n_windows, n_queries, hidden] and [n_windows, window_frames, d] -> as the first."""
        x = self.embeddings.LayerNorm(queries)
        for layer in self.encoder.layer:
            x = layer(x, windows)
        return x  # type: ignore[no-any-return]


class QFormer(nn.Module):
    """`speech_Qformer` of the checkpoint."""

    def __init__(self, dims: QFormerDims) -> None:
        super().__init__()
        self.bert = QFormerBert(dims)


class Connector(nn.Module):
    """Both encoders' outputs to soft tokens: norms, fusion, windows, Q-Former, projection."""

    def __init__(self, dims: QFormerDims) -> None:
        super().__init__()
        self.dims = dims
        self.ln_speech = nn.LayerNorm(dims.d_speech)
        self.ln_audio = nn.LayerNorm(dims.d_audio)
        self.speech_query_tokens = nn.Parameter(torch.empty(1, dims.n_queries, dims.hidden_size))
        nn.init.normal_(self.speech_query_tokens, std=0.02)
        self.speech_Qformer = QFormer(dims)
        self.speech_llama_proj = nn.Linear(dims.hidden_size, dims.d_model)

    def fuse(self, speech: Tensor, audio: Tensor) -> Tensor:
        """[batch, n_speech, d_speech], [batch, n_audio, d_audio] -> [batch, n, d_speech + d_audio].

        The shorter stream is padded with zeros after its LayerNorm, so pads are exact zeros.
        """
        speech, audio = self.ln_speech(speech), self.ln_audio(audio)
        n = max(speech.shape[1], audio.shape[1])
        speech = F.pad(speech, (0, 0, 0, n - speech.shape[1]))
        audio = F.pad(audio, (0, 0, 0, n - audio.shape[1]))
        return torch.cat([speech, audio], dim=-1)

    def windows(self, frames: Tensor) -> Tensor:
        """[batch, n_frames, d] -> [batch * n_windows, window_frames, d]; a last part is dropped."""
        windows = frames.unfold(1, self.dims.window_frames, self.dims.stride_frames)
        return windows.transpose(2, 3).flatten(0, 1)  # unfold puts the frames last

    def qformer(self, windows: Tensor) -> Tensor:
        """[n, window_frames, d] -> [n, n_queries, hidden]."""
        queries = self.speech_query_tokens.expand(windows.shape[0], -1, -1)
        return self.speech_Qformer.bert(queries, windows)  # type: ignore[no-any-return]

    def forward(self, speech: Tensor, audio: Tensor) -> Tensor:
        """[batch, n_speech, d_speech], [batch, n_audio, d_audio] -> [batch, n_soft, d_model]."""
        queries = self.qformer(self.windows(self.fuse(speech, audio)))
        soft = self.speech_llama_proj(queries)
        return soft.reshape(speech.shape[0], -1, self.dims.d_model)  # type: ignore[no-any-return]


# --- shared by the three attentions ---------------------------------------------------------------


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """[batch, n, d] -> [batch, n_heads, n, d / n_heads]."""
    return x.view(*x.shape[:-1], n_heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[batch, n_heads, n, d_head] -> [batch, n, d]."""
    return x.transpose(1, 2).flatten(2)
