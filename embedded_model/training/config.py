"""What the recipe trains on and for how long: everything a new version of the model changes."""

from __future__ import annotations

from dataclasses import dataclass, field

STYLES = {
    "noto": ("@iconify-json/noto", "1.2.9"),
    "fluent": ("@iconify-json/fluent-emoji", "1.2.7"),
}

# Icon names that both packages have, chosen to be told apart at a glance.
CONCEPTS = {
    "animals": (
        "cat-face dog-face lion tiger-face bear panda koala fox frog monkey-face rabbit-face pig-face "
        "cow-face mouse-face chicken penguin owl flamingo parrot elephant giraffe zebra whale dolphin tropical-fish "
        "octopus crab lobster turtle snail butterfly lady-beetle honeybee spider hedgehog unicorn blowfish"
    ),
    "faces": (
        "smiling-face-with-sunglasses smiling-face-with-heart-eyes nauseated-face cold-face clown-face robot "
        "alien ghost skull jack-o-lantern cowboy-hat-face partying-face"
    ),
    "food": (
        "red-apple green-apple pear lemon tangerine banana watermelon grapes strawberry cherries peach pineapple "
        "kiwi-fruit tomato eggplant avocado broccoli carrot hot-pepper croissant pretzel pancakes cheese-wedge "
        "hamburger french-fries pizza hot-dog popcorn sushi doughnut cookie birthday-cake cupcake lollipop ice-cream "
        "wine-glass beer-mug hot-beverage"
    ),
    "plants": (
        "cactus sunflower tulip rose four-leaf-clover maple-leaf mushroom christmas-tree deciduous-tree palm-tree"
    ),
    "objects": (
        "soccer-ball basketball pool-8-ball balloon wrapped-gift trophy guitar bell key locked light-bulb "
        "candle closed-book scissors hammer magnet umbrella top-hat crown t-shirt jeans dress rocket "
        "airplane automobile sailboat tractor house castle tent camera television alarm-clock gem-stone teddy-bear "
        "anchor fire snowman rainbow sun crescent-moon star cloud red-heart high-voltage stop-sign "
        "vertical-traffic-light"
    ),
}

# Where the icon's own name is not what a person would type.
EVERYDAY_NAMES = {
    "automobile": "car",
    "cheese-wedge": "cheese",
    "closed-book": "book",
    "deciduous-tree": "tree",
    "gem-stone": "diamond",
    "high-voltage": "lightning",
    "honeybee": "bee",
    "hot-beverage": "coffee",
    "kiwi-fruit": "kiwi",
    "lady-beetle": "ladybug",
    "locked": "lock",
    "pool-8-ball": "eight ball",
    "tangerine": "orange",
    "tropical-fish": "fish",
    "vertical-traffic-light": "traffic light",
    "wrapped-gift": "gift",
}


def caption_name(icon: str, category: str) -> str:
    """What a prompt calls an icon: `cat-face` among the animals is "cat"."""
    name = EVERYDAY_NAMES.get(icon, icon.replace("-", " "))
    return name.removesuffix(" face") if category == "animals" else name


@dataclass(frozen=True)
class Concept:
    name: str
    icon: str
    category: str


def concepts() -> list[Concept]:
    return [
        Concept(caption_name(icon, category), icon, category)
        for category, icons in CONCEPTS.items()
        for icon in icons.split()
    ]


@dataclass(frozen=True)
class Pictures:
    """How icons become training pictures; the sides are in pixels."""

    sides: tuple[int, ...] = (256, 128)
    views: int = 12
    scale: float = 27 / 32  # the icon's share of the side; what is left is room to move


@dataclass(frozen=True)
class Training:
    """Length and pace of one trained stage."""

    steps: int
    learning_rate: float
    ema_decay: float
    warmup_steps: int = 200
    decay_share: float = 0.2  # last part of the run, over which the learning rate falls to zero


@dataclass(frozen=True)
class Captions:
    empty: float = 0.1  # trains the unguided branch
    without_style: float = 0.05
    unknown_word: float = 0.1  # makes words never trained on harmless


@dataclass(frozen=True)
class Recipe:
    seed: int = 20260
    pictures: Pictures = Pictures()
    captions: Captions = Captions()
    autoencoder: Training = Training(steps=3000, learning_rate=1.5e-3, ema_decay=0.995)
    diffusion: Training = Training(steps=10000, learning_rate=8e-4, ema_decay=0.999)
    batch: dict[int, int] = field(default_factory=lambda: {256: 16, 128: 32})
    # share of steps at full size: little while the shapes are learnt, more for the detail
    full_size_share: tuple[float, float] = (0.1, 0.5)
