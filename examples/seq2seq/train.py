"""Trains the model of the `seq2seq` example: dates as people write them, character by character, to `YYYY-MM-DD`.

    pip install torch numpy safetensors
    python train.py

Writes `weights.safetensors` and `test.tsv` beside this file, then reloads the weights and measures them on the test set: 4 minutes
on one core. The seeds are fixed; other versions of PyTorch or other CPUs round differently, and so end up with other weights of
the same quality.

What the dates mean, where a reader could be in two minds (the metadata of the weights says so too):

- Numbers only: the day comes first, `2/11/1987` is the 2nd of November. Only where the second number cannot be a month is the
  first one, `11/25/1987`. A year of four digits may come first, and is then followed by the month: `1987-11-2`, `19871102`.
- A year of two digits is one of 1969 to 2068, as in POSIX.
- A weekday is ignored.

Held out: every calendar day for which `held_out` is true, one in twenty, by a hash of its ISO form. Training never sees such a
day in any notation, and the test set has no other days; that no string of the test set is trained on is asserted besides.
"""

import datetime
import json
import math
import pathlib
import random
import string
import time
import zlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

HERE = pathlib.Path(__file__).resolve().parent
TRAIN_SEED, TEST_SEED = 1, 2
STEPS, BATCH, TESTS = 2000, 256, 1000
LEARNING_RATE, SHARPNESS = 3e-3, 0.002
PIVOT = 69

# Index 0 of the input stands for every other character. Input is lowercased first, and its spaces all count.
INPUT = [""] + list(" abcdefghijklmnopqrstuvwxyz0123456789,./-'")
OUTPUT = list("0123456789-")
START = len(OUTPUT)
LENGTH = len("YYYY-MM-DD")
EMBEDDING, PREVIOUS, ENCODER, ATTENTION, DECODER = 24, 8, 48, 64, 64


# Dates --------------------------------------------------------------------------------------------------------------------------

MONTHS = "january february march april may june july august september october november december".split()
WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
ONES = "first second third fourth fifth sixth seventh eighth ninth".split()
TEENS = "tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth".split()

# (weight, template): `d` a day in any form, `o` one as an ordinal, `m` a named month, `y` a year, `Y` a year of four digits.
TEMPLATES = [
    (14, "{d} {m} {y}"),
    (5, "{d} {m}, {y}"),
    (2, "{d}. {m} {y}"),
    (4, "{d}-{m}-{y}"),
    (2, "{d}/{m}/{y}"),
    (1, "{d}.{m}.{y}"),
    (3, "{d}{m}{y}"),
    (1, "{d}{m} {y}"),
    (6, "the {o} of {m} {y}"),
    (3, "the {o} of {m}, {y}"),
    (4, "{o} of {m} {y}"),
    (1, "{o} of {m}, {y}"),
    (1, "the {o} {m} {y}"),
    (1, "the {o} day of {m} {y}"),
    (1, "{o} of {m} in {y}"),
    (10, "{m} {d} {y}"),
    (14, "{m} {d}, {y}"),
    (1, "{m}/{d}/{y}"),
    (2, "{m}-{d}-{y}"),
    (1, "{m}{d} {y}"),
    (1, "{m}{d}, {y}"),
    (3, "{m} the {o}, {y}"),
    (2, "{m} the {o} {y}"),
    (1, "{m} {d} of {y}"),
    (3, "{Y} {m} {d}"),
    (1, "{Y}, {m} {d}"),
    (2, "{Y}-{m}-{d}"),
    (1, "{Y} {d} {m}"),
]
WEIGHTS = [weight for weight, _ in TEMPLATES]


def held_out(day):
    return zlib.crc32(day.isoformat().encode()) % 20 == 0


def random_day(rng):
    first, last = rng.choices([(1940, 2059), (1900, 2099), (1000, 2999)], [6, 3, 1])[0]
    start, end = datetime.date(first, 1, 1).toordinal(), datetime.date(last, 12, 31).toordinal()
    return datetime.date.fromordinal(rng.randint(start, end))


def typo(rng, word):
    """The initial stays, and with it enough of the word to recognise it."""
    at = rng.randrange(1, len(word) - 1)
    return rng.choice([
        word[:at] + word[at + 1:],
        word[:at] + word[at] + word[at:],
        word[:at] + rng.choice(string.ascii_lowercase) + word[at + 1:],
        word[:at] + word[at + 1] + word[at] + word[at + 2:],
    ])


def named(rng, name):
    """A month or a weekday: in full or abbreviated."""
    if rng.random() < 0.5:
        return typo(rng, name) if len(name) > 4 and rng.random() < 0.15 else name
    length = 3
    if name[:3] in ("sep", "tue", "thu"):
        length = rng.choice([3, 4])
    return name[:length] + rng.choice(["", "", "", "."])


def suffix(rng, day):
    if rng.random() < 0.03:
        # People do write 3th.
        return "th"
    return "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def spelled(rng, day):
    if day < 10:
        return ONES[day - 1]
    if day < 20:
        return TEENS[day - 10]
    if day % 10 == 0:
        return ["twentieth", "thirtieth"][day // 10 - 2]
    return ["twenty", "thirty"][day // 10 - 2] + rng.choice("- ") + ONES[day % 10 - 1]


def ordinal(rng, day):
    choice = rng.random()
    if choice < 0.2:
        return spelled(rng, day)
    if choice < 0.24:
        return f"{day} {suffix(rng, day)}"
    return f"{day}{suffix(rng, day)}"


def number(rng, value):
    return f"{value:02}" if rng.random() < 0.4 else str(value)


def short(year):
    """Whether two digits suffice."""
    return PIVOT + 1900 <= year < PIVOT + 2000


def year_of(rng, year):
    if not short(year) or rng.random() < 0.6:
        return str(year)
    return rng.choice(["", "", "", "'", "'", "\u2019"]) + f"{year % 100:02}"


def numeric(rng, day):
    dot = rng.choice([".", ".", "/", "/", "-", "-", " ", ". ", " / ", " - "])
    d, m, y = number(rng, day.day), number(rng, day.month), day.year
    if rng.random() < 0.35:
        return rng.choice([f"{y}-{day.month:02}-{day.day:02}", f"{y}{day.month:02}{day.day:02}", f"{y}{dot}{m}{dot}{d}"])
    y = year_of(rng, y)
    if day.day > 12 and rng.random() < 0.25:
        d, m = m, d
    return f"{d}{dot}{m}{dot}{y}"


def written(rng, day):
    """One of the many ways to write a day."""
    if rng.random() < 0.3:
        text = numeric(rng, day)
    else:
        template = rng.choices(TEMPLATES, WEIGHTS)[0][1]
        d = ordinal(rng, day.day) if rng.random() < 0.4 else number(rng, day.day)
        if "}{" in template:
            # Only digits are written without a space.
            d = number(rng, day.day)
        text = template.format(
            d=d, o=ordinal(rng, day.day), m=named(rng, MONTHS[day.month - 1]), y=year_of(rng, day.year), Y=day.year
        )
    if rng.random() < 0.2:
        weekday = named(rng, WEEKDAYS[day.weekday()])
        text = rng.choice([f"{weekday}, {text}", f"{weekday} {text}"] * 2 + [f"{text}, {weekday}", f"{text} ({weekday})"])
    if rng.random() < 0.04:
        text = rng.choice(["on ", "on ", "born ", "due ", "since ", "date: "]) + text
    return cased(rng, spaced(rng, text))


def spaced(rng, text):
    if rng.random() < 0.06:
        at = rng.randrange(len(text))
        text = text.replace(text[at], text[at] + " ", 1) if text[at] in " ,.-/" else text
    if rng.random() < 0.06:
        text = text.replace(", ", rng.choice([",", " , "]), 1)
    if rng.random() < 0.06:
        text = rng.choice([" " + text, text + " ", text + ".", text + "!", f"({text})", "  " + text, text + "  "])
    return text


def cased(rng, text):
    return rng.choices([text, text.upper(), string.capwords(text, " "), text.capitalize()], [5, 2, 8, 2])[0].replace("Of", "of")


def pair(rng, wanted):
    """A text and its date, of a day that is held out or of one that is not."""
    while True:
        day = random_day(rng)
        if held_out(day) is wanted:
            return written(rng, day), day.isoformat()


# Model --------------------------------------------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(INPUT), EMBEDDING)
        self.encoder = nn.GRU(EMBEDDING, ENCODER, batch_first=True, bidirectional=True)
        self.initial = nn.Linear(2 * ENCODER, DECODER)
        self.key = nn.Linear(2 * ENCODER, ATTENTION, bias=False)
        self.query = nn.Linear(DECODER, ATTENTION, bias=False)
        self.v = nn.Parameter(torch.randn(ATTENTION) / math.sqrt(ATTENTION))
        self.previous = nn.Embedding(len(OUTPUT) + 1, PREVIOUS)
        self.decoder = nn.GRUCell(PREVIOUS + 2 * ENCODER, DECODER)
        self.output = nn.Linear(DECODER + 2 * ENCODER, len(OUTPUT))

    def tensors(self):
        """The parameters by the names they have in the file."""
        tensors = {"encoder.embedding": self.embedding.weight}
        for direction, end in (("forward", "_l0"), ("backward", "_l0_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                tensors[f"encoder.{direction}.{name}"] = getattr(self.encoder, name + end)
        tensors |= {
            "attention.key": self.key.weight,
            "attention.query": self.query.weight,
            "attention.v": self.v,
            "decoder.initial.weight": self.initial.weight,
            "decoder.initial.bias": self.initial.bias,
            "decoder.embedding": self.previous.weight,
        }
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            tensors[f"decoder.{name}"] = getattr(self.decoder, name)
        return tensors | {"output.weight": self.output.weight, "output.bias": self.output.bias}

    def forward(self, texts, lengths, target=None):
        """Logits `[batch, LENGTH, characters]` and attention `[batch, LENGTH, input]`: along the target, or greedily without one.

        As in Bahdanau et al. (2015), the query of a step is the state of the decoder before that step.
        """
        packed = pack_padded_sequence(self.embedding(texts), lengths, batch_first=True, enforce_sorted=False)
        states, last = self.encoder(packed)
        states = pad_packed_sequence(states, batch_first=True)[0]
        state = torch.tanh(self.initial(torch.cat([last[0], last[1]], 1)))
        if self.training:
            # What the initial state does not tell, attention has to find.
            state = state * (torch.rand(len(texts), 1) < 0.5)
        keys = self.key(states)
        padding = torch.arange(states.shape[1]) >= lengths[:, None]
        character = torch.full((len(texts),), START)
        logits, attention = [], []
        for step in range(LENGTH):
            scores = torch.tanh(self.query(state)[:, None] + keys) @ self.v
            weights = scores.masked_fill(padding, -math.inf).softmax(1)
            context = (weights[:, None] @ states)[:, 0]
            state = self.decoder(torch.cat([self.previous(character), context], 1), state)
            logits.append(self.output(torch.cat([state, context], 1)))
            attention.append(weights)
            character = logits[-1].argmax(1) if target is None else target[:, step]
        return torch.stack(logits, 1), torch.stack(attention, 1)


def encoded(texts):
    """Padded to the longest; the lengths tell what is padding."""
    ids = [[INPUT.index(c) if c in INPUT else 0 for c in text.lower()] for text in texts]
    lengths = torch.tensor([len(row) for row in ids])
    width = int(lengths.max())
    return torch.tensor([row + [0] * (width - len(row)) for row in ids]), lengths


def batches(rng, tests):
    """Batches without end. Those of similar length go together, which spares padding."""
    while True:
        pairs = [pair(rng, False) for _ in range(BATCH * 20)]
        assert not any(text.lower() in tests for text, _ in pairs)
        pairs.sort(key=lambda pair: len(pair[0]))
        chunks = [pairs[at:at + BATCH] for at in range(0, len(pairs), BATCH)]
        rng.shuffle(chunks)
        yield from chunks


def train(model, tests):
    rng = random.Random(TRAIN_SEED)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    start = time.time()
    for step, pairs in zip(range(STEPS), batches(rng, tests)):
        rate = min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        texts, target = [text for text, _ in pairs], torch.tensor([[OUTPUT.index(c) for c in iso] for _, iso in pairs])
        logits, attention = model(*encoded(texts), target)
        loss = functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        entropy = -(attention * (attention + 1e-9).log()).sum(2).mean()
        optimizer.zero_grad()
        # A little pressure towards few places, for an alignment that can be read.
        (loss + SHARPNESS * (step / STEPS) * entropy).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 250 == 0 or step + 1 == STEPS:
            print(f"step {step:5}  loss {loss.item():.5f}  entropy {entropy.item():.3f}  {time.time() - start:.0f} s", flush=True)


# Files --------------------------------------------------------------------------------------------------------------------------


def save(model, path):
    described = {
        "input_vocabulary": INPUT,
        "output_vocabulary": OUTPUT,
        "output_start": START,
        "output_length": LENGTH,
        "lowercase": True,
        "two_digit_years": [1900 + PIVOT, 1999 + PIVOT],
        "numeric_order": "day, month, year; month, day, year only if the second number exceeds 12; "
        "a leading year of four digits: year, month, day",
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.tensors().items()}
    # One entry, because safetensors writes several in random order.
    save_file(tensors, path, {"seq2seq": json.dumps(described)})


def load(path):
    model = Model().eval()
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, tensor in model.tensors().items():
            tensor.copy_(file.get_tensor(name))
    return model


@torch.no_grad()
def greedy(model, texts):
    logits, attention = model(*encoded(texts))
    return ["".join(OUTPUT[i] for i in row) for row in logits.argmax(2).tolist()], attention


def main():
    torch.manual_seed(TRAIN_SEED)
    torch.set_num_threads(1)
    rng, tests = random.Random(TEST_SEED), {}
    while len(tests) < TESTS:
        text, iso = pair(rng, True)
        tests.setdefault(text.lower(), (text, iso))
    (HERE / "test.tsv").write_text("".join(f"{text}\t{iso}\n" for text, iso in tests.values()), encoding="utf-8", newline="\n")

    model = Model()
    train(model, tests)
    save(model, HERE / "weights.safetensors")

    model = load(HERE / "weights.safetensors")
    pairs = [line.split("\t") for line in (HERE / "test.tsv").read_text(encoding="utf-8").splitlines()]
    read = greedy(model, [text for text, _ in pairs])[0]
    for (text, iso), got in zip(pairs, read):
        if got != iso:
            print(f"{text!r}: {got} instead of {iso}")
    right = sum(got == iso for (_, iso), got in zip(pairs, read))
    size = (HERE / "weights.safetensors").stat().st_size
    print(f"{right} of {len(pairs)} exactly right ({100 * right / len(pairs):.2f} %), {size} bytes")


if __name__ == "__main__":
    main()
