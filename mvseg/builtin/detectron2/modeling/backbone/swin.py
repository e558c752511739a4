"""Swin Transformer (Liu et al. 2021) as a backbone; parameters are named as in the authors' weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from .backbone import Backbone


def _pad_map(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, H, W, C) at the bottom and right to multiples."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % multiple, 0, -height % multiple))


def _to_windows(x: Tensor, window_size: int) -> Tensor:
    """Cut (B, H, W, C) into (B * windows, window_size, window_size, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window_size, window_size, width // window_size, window_size, channels)
    return x.transpose(2, 3).reshape(-1, window_size, window_size, channels)


def _from_windows(windows: Tensor, window_size: int, H: int, W: int) -> Tensor:
    """Put windows back into (B, H, W, C)."""
    channels = windows.shape[-1]
    x = windows.view(-1, H // window_size, W // window_size, window_size, window_size, channels)
    return x.transpose(2, 3).reshape(-1, H, W, channels)


def _relative_position_index(size: int) -> Tensor:
    """(size², size²) row of the bias table for each pair of cells in a window."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    cells = torch.stack((rows.flatten(), columns.flatten()))
    offset = cells[:, :, None] - cells[:, None, :] + (size - 1)
    return offset[0] * (2 * size - 1) + offset[1]


def _shift_mask(height: int, width: int, size: int, shift: int, like: Tensor) -> Tensor:
    """(windows, size², size²) additive mask: cells that only the cyclic shift made neighbours do not see each other."""

    def bands(length: int) -> Tensor:
        place = torch.arange(length, device=like.device)
        return (place >= length - size).int() + (place >= length - shift).int()

    region = 3 * bands(height)[:, None] + bands(width)[None]
    windows = _to_windows(region[None, :, :, None], size).flatten(1)
    apart = windows[:, None, :] != windows[:, :, None]
    return torch.zeros(apart.shape, device=like.device, dtype=like.dtype).masked_fill(apart, -100.0)


class _Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int, drop: float):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class _WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for each relative position."""

    def __init__(self, dim: int, num_heads: int, options: dict):
        super().__init__()
        size, self.attn_drop = options["window_size"], options["attn_drop"]
        self.num_heads, self.scale = num_heads, options["qk_scale"] or (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", _relative_position_index(size))
        self.qkv = nn.Linear(dim, dim * 3, bias=options["qkv_bias"])
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(options["drop"])
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows x (B * windows, cells, C); mask is (windows, cells, cells) or None."""
        number, cells, channels = x.shape
        q, k, v = self.qkv(x).view(number, cells, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None].to(q.dtype)
        if mask is not None:
            bias = (bias + mask[:, None].to(q.dtype)).repeat(number // len(mask), 1, 1, 1)
        drop = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop, scale=self.scale)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(number, cells, channels)))


class _Block(nn.Module):
    """Window attention, shifted or not, and an MLP, both residual."""

    def __init__(self, dim: int, num_heads: int, shift_size: int, drop_path: float, options: dict):
        super().__init__()
        self.window_size, self.shift_size = options["window_size"], shift_size
        self.norm1 = options["norm_layer"](dim)
        self.attn = _WindowAttention(dim, num_heads, options)
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path > 0 else nn.Identity()
        self.norm2 = options["norm_layer"](dim)
        self.mlp = _Mlp(dim, int(dim * options["mlp_ratio"]), options["drop"])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = x + self.drop_path(self._attend(self.norm1(x), mask if self.shift_size else None))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        height, width = x.shape[1:3]
        x = _pad_map(x, self.window_size)
        padded_height, padded_width = x.shape[1:3]
        x = x.roll((-self.shift_size, -self.shift_size), (1, 2))
        windows = self.attn(_to_windows(x, self.window_size).flatten(1, 2), mask)
        x = _from_windows(windows, self.window_size, padded_height, padded_width)
        return x.roll((self.shift_size, self.shift_size), (1, 2))[:, :height, :width]


class _PatchMerging(nn.Module):
    """Halve the resolution: 2x2 cells become one of twice the channels."""

    def __init__(self, dim: int, norm_layer):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = _pad_map(x, 2)
        quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


class _Stage(nn.Module):
    """Blocks of one resolution, and the merging to the next."""

    def __init__(self, dim: int, num_heads: int, drop_path: list[float], merge: bool, options: dict):
        super().__init__()
        self.window_size, self.use_checkpoint = options["window_size"], options["use_checkpoint"]
        self.shift_size = self.window_size // 2
        self.blocks = nn.ModuleList(
            _Block(dim, num_heads, self.shift_size * (index % 2), rate, options) for index, rate in enumerate(drop_path)
        )
        self.downsample = _PatchMerging(dim, options["norm_layer"]) if merge else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, C); returns the features before and after merging."""
        height, width = (-(-side // self.window_size) * self.window_size for side in x.shape[1:3])
        mask = _shift_mask(height, width, self.window_size, self.shift_size, x)
        for block in self.blocks:
            x = checkpoint(block, x, mask, use_reentrant=False) if self.use_checkpoint else block(x, mask)
        return x, x if self.downsample is None else self.downsample(x)


class _PatchEmbed(nn.Module):
    """Patches of pixels to vectors: (B, C, H, W) to (B, H / patch, W / patch, dim)."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int, norm_layer):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = norm_layer(embed_dim) if norm_layer is not None else None

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size))
        x = self.proj(x).permute(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x)


class SwinTransformer(Backbone):
    """Swin with outputs "p0" (stride 4) to "p3" (stride 32)."""

    def __init__(
        self,
        pretrain_img_size=224,
        patch_size=4,
        in_chans=3,
        embed_dim=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        mlp_ratio=4.0,
        qkv_bias=True,
        qk_scale=None,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.2,
        norm_layer=nn.LayerNorm,
        ape=False,
        patch_norm=True,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        use_checkpoint=False,
    ):
        super().__init__()
        self.num_layers, self.ape = len(depths), ape
        self.out_indices, self.frozen_stages = out_indices, frozen_stages
        self.patch_embed = _PatchEmbed(patch_size, in_chans, embed_dim, norm_layer if patch_norm else None)
        if ape:
            height, width = (pretrain_img_size,) * 2 if isinstance(pretrain_img_size, int) else pretrain_img_size
            shape = (1, embed_dim, height // patch_size, width // patch_size)
            self.absolute_pos_embed = nn.Parameter(torch.zeros(shape))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)
        options = {"window_size": window_size, "mlp_ratio": mlp_ratio, "norm_layer": norm_layer, "drop": drop_rate}
        options |= {"qkv_bias": qkv_bias, "qk_scale": qk_scale, "attn_drop": attn_drop_rate}
        options["use_checkpoint"] = use_checkpoint
        self.num_features = [embed_dim * 2**index for index in range(self.num_layers)]
        rates = torch.linspace(0, drop_path_rate, sum(depths)).split(list(depths))
        self.layers = nn.ModuleList(
            _Stage(dim, heads, rate.tolist(), index + 1 < self.num_layers, options)
            for index, (dim, heads, rate) in enumerate(zip(self.num_features, num_heads, rates))
        )
        for index in out_indices:
            self.add_module(f"norm{index}", norm_layer(self.num_features[index]))
        self._freeze_stages()
        self._out_features = [f"p{index}" for index in out_indices]
        self._out_feature_channels = {f"p{index}": self.num_features[index] for index in out_indices}
        self._out_feature_strides = {f"p{index}": patch_size * 2**index for index in out_indices}
        self._size_divisibility = 32
        self.apply(self._init_weights)

    def _freeze_stages(self):
        frozen: list[nn.Module] = [self.patch_embed] if self.frozen_stages >= 0 else []
        if self.frozen_stages >= 1 and self.ape:
            self.absolute_pos_embed.requires_grad = False
        if self.frozen_stages >= 2:
            self.pos_drop.eval()
            frozen.extend(self.layers[: self.frozen_stages - 1])
        for module in frozen:
            module.eval().requires_grad_(False)

    def _init_weights(self, m):
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.LayerNorm):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)

    @property
    def size_divisibility(self):
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (B, C, H, W) to {"p0": (B, embed_dim, H / 4, W / 4), ...}."""
        x = self.patch_embed(x)
        if self.ape:
            place = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic")
            x = x + place.permute(0, 2, 3, 1)
        x = self.pos_drop(x)
        features = {}
        for index, layer in enumerate(self.layers):
            out, x = layer(x)
            if index in self.out_indices:
                norm = getattr(self, f"norm{index}")
                features[f"p{index}"] = norm(out).permute(0, 3, 1, 2).contiguous()
        return features
