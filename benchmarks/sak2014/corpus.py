"""Read speech with the times of its phones, made by a synthesiser: python -m benchmarks.sak2014.corpus [FOLDER]

Sak, Senior and Beaufays 2014 trained on 1,900 hours of voice search that are not public. Here eSpeak NG reads sentences
of a small grammar (grammar.yaml) in many voices, and says when each phone begins. Of each sentence a file has the
logarithms of 40 mel filters every 10 ms (windows of 25 ms), clean, and of each frame the phone and which third of it:
42 phones x 3 = 126 states, as in the paper. Noise, a channel and reverberation are drawn later, anew for each epoch.

eSpeak NG is GPL-3, and is a tool of this experiment alone: espeakng-loader 0.2.4 brings its version 1.52. Sentences are
read in one process in one order, for it carries a state from one to the next: so a machine kind gives the same bits
each time, and `digest` says which.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

RATE, WINDOW, HOP, FILTERS, POINTS = 22050, 0.025, 0.010, 40, 1024
LEAST = 50  # frames of a class: there are 1008 then
VERSION = 2  # of what is made here: a new one makes old files unfit
GRAMMAR: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("grammar.yaml").read_text(encoding="utf-8"))
FOLDED = {theirs: ours for own in GRAMMAR["phones"].values() for ours, all in own.items() for theirs in all}
PHONES = tuple(phone for own in GRAMMAR["phones"].values() for phone in own)
CLASSES = [k for k, own in enumerate(GRAMMAR["phones"].values()) for _ in own]  # of each phone
LISTS = {"person": "person", "other": "person"} | {name: name for name in ("deed", "thing", "place", "time", "why")}


@dataclass(frozen=True)
class Sizes:
    """How many sentences there are to train on and to test, and of new words in new voices."""

    train: int = 2400
    seen: int = 240
    new: int = 240


@dataclass(frozen=True)
class Part:
    """Sentences, one after the other."""

    clean: NDArray[np.float16]  # (frames, FILTERS), logarithms of power
    lengths: NDArray[np.int64]  # frames of each sentence
    phones: NDArray[np.int16]  # (frames,), numbers in PHONES
    thirds: NDArray[np.int16]  # (frames,), of the phone: 0, 1 or 2
    before: NDArray[np.int16]  # (frames,), the phone before this one
    voices: tuple[str, ...]  # of each sentence
    texts: tuple[str, ...]

    @property
    def states(self) -> NDArray[np.int64]:
        """The state in context of each frame: of the phone, its third, and the class of the phone before."""
        return (
            len(GRAMMAR["phones"]) * (3 * self.phones.astype(np.int64) + self.thirds) + np.array(CLASSES)[self.before]
        )

    def head(self, count: int) -> Part:
        """The first sentences."""
        frames = slice(int(self.lengths[:count].sum()))
        own = (self.clean[frames], self.lengths[:count], self.phones[frames], self.thirds[frames], self.before[frames])
        return Part(*own, self.voices[:count], self.texts[:count])


def inventory(part: Part, context: bool) -> NDArray[np.int64]:
    """The class of each state in context, as numbers from 0 on: (42 * 3 * contexts,).

    Without context one of 126. With it a state has a class of its own if it has LEAST frames in the part. The rarer
    ones of one third of one phone share a class; if they have not so many either, that of its most frequent state.
    """
    contexts = len(GRAMMAR["phones"])
    if not context:
        return np.arange(3 * len(PHONES)).repeat(contexts)
    counts = np.bincount(part.states, minlength=3 * len(PHONES) * contexts).reshape(-1, contexts)
    own = counts >= LEAST
    shared = np.where(own, 0, counts).sum(1) >= LEAST
    numbers = np.arange(counts.size).reshape(counts.shape)
    rest = np.where(shared, counts.size + numbers[:, 0], numbers[:, 0] + counts.argmax(1))
    found: NDArray[np.int64] = np.unique(np.where(own, numbers, rest[:, None]), return_inverse=True)[1].reshape(-1)
    return found


def sentences(count: int, seed: int, new: bool) -> list[str]:
    """Sentences of the grammar. Every fifth word of each list is in those with `new` words alone."""
    random = np.random.default_rng(seed)

    def some(words: list[str], number: int = 5) -> str:
        own = words if number == 1 else [word for k, word in enumerate(words) if (k % number == number - 1) == new]
        return own[random.integers(len(own))]

    found = []
    for _ in range(count):
        words = {name: some(GRAMMAR[source]) for name, source in LISTS.items()}
        text = some(GRAMMAR["forms"], 1).format(number=int(random.integers(*GRAMMAR["numbers"])), **words)
        found.append(text[0].upper() + text[1:])
    return found


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("text", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
PHONEME, SYNCHRONOUS, PHONEME_EVENTS, UTF8 = 7, 2, 1, 1
SPEED, PITCH, RANGE = 1, 3, 4  # parameters


class Speaker:
    """eSpeak NG. One in a process."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ModuleNotFoundError:
            raise ImportError(
                "The corpus is read by eSpeak NG: install it with pip install espeakng-loader==0.2.4"
            ) from None
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._library.espeak_Initialize(
            SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), PHONEME_EVENTS
        )
        if rate != RATE:
            raise RuntimeError(f"eSpeak NG says the rate {rate}: expected {RATE}, that of version 1.52")
        self._sound: list[NDArray[np.int16]] = []
        self._heard: list[tuple[int, str]] = []
        self._callback = _Callback(self._take)  # it must live as long as the library may call it
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, sound: Any, count: int, events: Any) -> int:
        if sound and count:
            self._sound.append(np.ctypeslib.as_array(sound, (count,)).copy())
        k = 0
        while events[k].type:
            if events[k].type == PHONEME:
                raw = ctypes.string_at(ctypes.addressof(events[k].id), 8)
                self._heard.append((events[k].sample, raw.split(b"\0")[0].decode()))
            k += 1
        return 0

    def say(
        self, text: str, voice: str, speed: int, pitch: int, span: int
    ) -> tuple[NDArray[np.int16], list[tuple[int, str]]]:
        """The sound, and at which sample each phone begins. Errors: RuntimeError for what eSpeak does not take."""
        self._sound, self._heard = [], []
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {voice!r}")
        for name, value in ((SPEED, speed), (PITCH, pitch), (RANGE, span)):
            self._library.espeak_SetParameter(name, value, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        data = text.encode()
        if self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None):
            raise RuntimeError(f"eSpeak NG does not say {text!r}")
        phones = []
        for sample, name in self._heard:
            bare = "".join(letter for letter in name if letter not in "', ,%=")
            if bare not in FOLDED:
                raise RuntimeError(f"eSpeak NG says the phoneme {name!r}, which is in no class: it is another version")
            phones.append((sample, FOLDED[bare]))
        return np.concatenate(self._sound), phones


@lru_cache
def filters() -> NDArray[np.float64]:
    """The mel filters: triangles from 60 Hz to 8 kHz, (POINTS // 2 + 1, FILTERS)."""

    def mel(hertz: Any) -> Any:
        return 1127 * np.log1p(hertz / 700)

    edges = 700 * np.expm1(np.linspace(mel(60.0), mel(8000.0), FILTERS + 2) / 1127)
    bins = np.arange(POINTS // 2 + 1)[:, None] * RATE / POINTS
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    found: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    return found


def spectrum(sound: NDArray[np.int16]) -> NDArray[np.float16]:
    """Logarithms of the power in each filter, (frames, FILTERS).

    In double precision, so that machines whose last bits differ give the same rounded numbers.
    """
    size = round(WINDOW * RATE)
    starts = (np.arange(max(1, int((len(sound) - size) / (HOP * RATE)) + 1)) * HOP * RATE).astype(int)
    padded = np.concatenate([sound, np.zeros(size, np.int16)]) / 32768
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, POINTS)) ** 2
    return np.log(power @ filters() + 1e-6).astype(np.float16)


def labels(phones: list[tuple[int, str]], frames: int, samples: int) -> NDArray[np.int16]:
    """Of each frame, by the sample in its middle: the phone, its third, and the phone before. (3, frames)."""
    merged = [(0, "sil")]
    for sample, phone in phones:
        if phone != merged[-1][1]:
            if sample <= merged[-1][0]:  # of no length: the later one counts
                merged.pop()
            if not merged or merged[-1][1] != phone:
                merged.append((sample, phone))
    starts = np.array([sample for sample, _ in merged])
    numbers = np.array([PHONES.index(phone) for _, phone in merged], np.int16)
    middle = (np.arange(frames) * HOP * RATE + WINDOW * RATE / 2).astype(int)
    at = np.maximum(0, np.searchsorted(starts, middle, side="right") - 1)
    ends = np.append(starts[1:], max(samples, starts[-1] + 1))
    third = np.clip(3 * (middle - starts[at]) // np.maximum(1, ends[at] - starts[at]), 0, 2)
    before = np.where(at > 0, numbers[at - 1], PHONES.index("sil"))
    return np.stack([numbers[at], third, before]).astype(np.int16)


def make(sizes: Sizes, seed: int = 0) -> dict[str, Part]:
    """The parts `train`, `seen` (its words, its voices) and `new` (other words, other voices)."""
    speaker, random, parts = Speaker(), np.random.default_rng(seed), {}
    for number, (name, count) in enumerate((("train", sizes.train), ("seen", sizes.seen), ("new", sizes.new))):
        texts = sentences(count, 1000 * seed + number, name == "new")
        own, accents = GRAMMAR["new_voices" if name == "new" else "voices"], GRAMMAR["accents"]
        clean, told, voices = [], [], []
        for text in texts:
            voices.append(f"gmw/{accents[random.integers(len(accents))]}+{own[random.integers(len(own))]}")
            speed, pitch, span = (int(random.integers(*ends)) for ends in ((130, 220), (25, 75), (25, 75)))
            sound, phones = speaker.say(text, voices[-1], speed, pitch, span)
            clean.append(spectrum(sound))
            told.append(labels(phones, len(clean[-1]), len(sound)))
        whole = np.concatenate(told, 1)
        lengths = np.array([len(each) for each in clean])
        parts[name] = Part(np.concatenate(clean), lengths, whole[0], whole[1], whole[2], tuple(voices), tuple(texts))
    return parts


def digest(parts: dict[str, Part]) -> str:
    """Of all numbers: the same for the same version, order and machine kind."""
    found = hashlib.sha256()
    for name, part in parts.items():
        found.update(name.encode())
        for array in (part.clean, part.lengths, part.phones, part.thirds, part.before):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def save(parts: dict[str, Part], folder: Path) -> None:
    """One .npz file for each part."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        np.savez(folder / f"{name}.npz", version=VERSION, **vars(part))


def load(folder: Path) -> dict[str, Part] | None:
    """What `save` wrote; None where it is not there, or of another version."""
    parts = {}
    for name in ("train", "seen", "new"):
        path = folder / f"{name}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            if int(file["version"]) != VERSION:
                return None
            arrays = {key: file[key] for key in ("clean", "lengths", "phones", "thirds", "before")}
            parts[name] = Part(**arrays, voices=tuple(file["voices"].tolist()), texts=tuple(file["texts"].tolist()))
    return parts


def noisy(clean: NDArray[Any], lengths: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """The features with noise, a channel and reverberation, each drawn for a whole sentence.

    In the power of the mel filters: a smooth channel of up to 10 dB each way, power that lingers (0.1 to 0.4 s to fall
    by 60 dB), and noise with a smooth spectrum, 5 to 30 dB below the speech.
    """
    random, out, begin = np.random.default_rng(seed), np.empty(clean.shape, np.float32), 0
    place = np.linspace(0, 1, clean.shape[1])
    waves = np.stack([np.cos(np.pi * k * place) for k in range(1, 5)])  # (4, FILTERS)
    for length in lengths.tolist():
        power = np.exp(clean[begin : begin + length].astype(np.float32))
        keep = 10 ** (-6 * HOP / random.uniform(0.1, 0.4))
        tail = np.zeros(clean.shape[1], np.float32)
        share = random.uniform(0, 0.3)
        lingering = np.empty_like(power)
        for t in range(length):  # each frame, what is left of those before it
            tail = keep * tail + power[t]
            lingering[t] = tail
        power = (1 - share) * power + share * (1 - keep) * lingering
        power *= np.exp(np.clip(random.normal(0, 0.6, 4) @ waves, -2.3, 2.3)).astype(np.float32)
        level = power.mean() * 10 ** (-random.uniform(5, 30) / 10)
        noise = level * np.exp(random.normal(0, 0.8, 4) @ waves) * random.gamma(8, 1 / 8, power.shape)
        out[begin : begin + length] = np.log(power + noise.astype(np.float32))
        begin += length
    return out


def main() -> int:
    """Makes the corpus in a folder, and says what is in it."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/sak2014")
    parts = make(Sizes())
    save(parts, folder)
    for name, part in parts.items():
        states = len(np.unique(inventory(parts["train"], True)[part.states]))
        print(f"{name}: {len(part.lengths)} sentences, {len(part.clean):,} frames, {states} states in context")
    print(f"sha256 {digest(parts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
