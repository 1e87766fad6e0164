"""bitsandbytes on the CPU, made exact where its CPU build is not what its CUDA build does, with which
everybody trains.

Of the known places three are mended here: its 8-bit quantizer, which looks codes up in 65,536 steps
instead of taking the nearest; its AVX-512 dequantization, which is wrong where a row is not whole
blocks; and FP4 codes at ties, which weights from 16-bit files meet often (5/12, 7/12 and 5/6 of a
block's maximum). The other three are kept away from (theirs.py): models stay in train() mode without
dropout (eval() repacks weights on AVX512-BF16), and all of a model is made fp32 (backward dequantizes
through quant_state.dtype; prepare_model_for_kbit_training makes the rest fp32).

All of it is slow: speed.py does without."""
import math

import bitsandbytes as bnb
import torch


def nearest_codes(x, code):
    """The nearest of `code`, which ascends: midpoints in fp32, a tie goes to the even index."""
    middle = (code[:-1] + code[1:]) / 2
    low = torch.searchsorted(middle, x, right=False)  # midpoints below x
    high = torch.searchsorted(middle, x, right=True)  # ... below or equal
    return torch.where((low != high) & (low % 2 == 1), high, low)


def quantize_blockwise(a, code, blocksize):
    flat = a.reshape(-1).float()
    blocks = -(-flat.numel() // blocksize)
    padded = torch.zeros(blocks * blocksize)
    padded[:flat.numel()] = flat
    absmax = padded.view(blocks, blocksize).abs().amax(1)
    inverse = torch.where(absmax > 0, 1 / absmax, torch.zeros(()))
    scaled = (padded.view(blocks, blocksize) * inverse[:, None]).reshape(-1)[:flat.numel()]
    return nearest_codes(scaled, code.float()).to(torch.uint8).reshape(a.shape), absmax


def dequantize_4bit(a, absmax, blocksize, quant_type, shape, dtype):
    packed = a.reshape(-1).view(torch.uint8)
    codes = torch.stack([packed >> 4, packed & 15], 1).reshape(-1)[:math.prod(shape)]
    values = bnb.functional.get_4bit_type(quant_type, device="cpu")[codes.int()]
    scales = absmax.float().repeat_interleave(blocksize)[:codes.numel()]
    return (values * scales).to(dtype).reshape(tuple(shape))


FP4_LIMITS = torch.tensor([.00260417, .0859375, .20833333, .29166667, .4166667, .583333, .8333333])
FP4_CODES = torch.tensor([0, 1, 6, 7, 4, 5, 2, 3], dtype=torch.uint8)  # by ascending magnitude
quantize_4bit = bnb.functional.quantize_4bit


def fp4_codes(a, blocksize):
    """As csrc/kernels.cu (dQuantizeFP4): thresholds on |y|, written as they are there."""
    flat = a.reshape(-1).float()
    padded = torch.zeros(-(-flat.numel() // blocksize) * blocksize)
    padded[:flat.numel()] = flat
    y = padded.view(-1, blocksize)
    y = (y * (1 / y.abs().amax(1, keepdim=True))).reshape(-1)
    codes = FP4_CODES[torch.searchsorted(FP4_LIMITS, y.abs(), right=False)] + 8 * (y < 0).to(torch.uint8)
    return codes[:flat.numel() + flat.numel() % 2]


def quantize_4bit_exact(a, *more, **keys):
    packed, state = quantize_4bit(a, *more, **keys)
    if state.quant_type == "fp4":
        codes = fp4_codes(a, state.blocksize)
        packed = (codes[::2] << 4 | codes[1::2]).view(packed.dtype).reshape(packed.shape)
    return packed, state


def install():
    """For the rest of the process."""
    global LIBRARY
    bnb.functional.quantize_4bit = quantize_4bit_exact
    LIBRARY = torch.library.Library("bitsandbytes", "IMPL")
    LIBRARY.impl("quantize_blockwise", quantize_blockwise, "CPU", allow_override=True)
    LIBRARY.impl("dequantize_4bit", dequantize_4bit, "CPU", allow_override=True)
