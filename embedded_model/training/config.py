"""What the recipe trains on and for how long: everything a new version of the model changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

STYLES = {
    "noto": ("@iconify-json/noto", "1.2.9"),
    "fluent": ("@iconify-json/fluent-emoji", "1.2.7"),
}

# Icon names that both packages have, chosen to be told apart at a glance.
CONCEPTS = {
    "animals": (
        "cat-face dog-face lion tiger-face bear panda koala fox frog monkey-face rabbit-face pig-face "
        "cow-face mouse-face chicken penguin owl flamingo parrot elephant giraffe zebra whale dolphin tropical-fish "
        "octopus crab lobster turtle snail butterfly lady-beetle honeybee spider hedgehog unicorn blowfish "
        "ant bat beaver beetle bison bug camel crocodile deer dodo dragon-face duck eagle gorilla hamster "
        "hatching-chick hippopotamus horse-face jellyfish kangaroo leopard lizard mammoth orangutan otter peacock "
        "polar-bear raccoon rhinoceros rooster sauropod scorpion seal shark skunk sloth snake squid swan t-rex "
        "turkey wolf"
    ),
    "faces": (
        "smiling-face-with-sunglasses smiling-face-with-heart-eyes nauseated-face cold-face clown-face robot "
        "alien ghost skull jack-o-lantern cowboy-hat-face partying-face "
        "alien-monster angry-face-with-horns exploding-head goblin hot-face nerd-face ogre pile-of-poo sleeping-face "
        "star-struck"
    ),
    "food": (
        "red-apple green-apple pear lemon tangerine banana watermelon grapes strawberry cherries peach pineapple "
        "kiwi-fruit tomato eggplant avocado broccoli carrot hot-pepper croissant pretzel pancakes cheese-wedge "
        "hamburger french-fries pizza hot-dog popcorn sushi doughnut cookie birthday-cake cupcake lollipop ice-cream "
        "wine-glass beer-mug hot-beverage "
        "bacon bagel bell-pepper blueberries bread bubble-tea burrito butter candy chocolate-bar cocktail-glass "
        "coconut cooking cucumber custard dango ear-of-corn fried-shrimp garlic glass-of-milk honey-pot leafy-green "
        "mango meat-on-bone onion pea-pod peanuts potato poultry-leg rice-ball sandwich shortcake soft-ice-cream "
        "spaghetti taco teapot waffle"
    ),
    "plants": (
        "cactus sunflower tulip rose four-leaf-clover maple-leaf mushroom christmas-tree deciduous-tree palm-tree "
        "bouquet cherry-blossom evergreen-tree hibiscus hyacinth lotus potted-plant seedling"
    ),
    "objects": (
        "soccer-ball basketball pool-8-ball balloon wrapped-gift trophy guitar bell key locked light-bulb "
        "candle closed-book scissors hammer magnet umbrella top-hat crown t-shirt jeans dress rocket "
        "airplane automobile sailboat tractor house castle tent camera television alarm-clock gem-stone teddy-bear "
        "anchor fire snowman rainbow sun crescent-moon star cloud red-heart high-voltage stop-sign "
        "vertical-traffic-light "
        "ambulance artist-palette axe backpack baseball bathtub bomb boxing-glove broom bucket bullseye bus chair "
        "compass crystal-ball desktop-computer door drum envelope ferris-wheel fire-engine fire-extinguisher "
        "floppy-disk flying-saucer fountain game-die graduation-cap helicopter high-heeled-shoe hourglass-done "
        "ice-skate joystick kite laptop lipstick locomotive luggage megaphone microscope mobile-phone money-bag "
        "motor-scooter musical-keyboard necktie parachute pencil police-car postbox puzzle-piece radio ring ring-buoy "
        "ringed-planet roller-skate running-shoe saxophone screwdriver shield ship skateboard slot-machine snowflake "
        "socks sunglasses syringe taxi telephone telescope toilet toolbox trumpet video-game violin volcano watch "
        "wrench yarn"
    ),
}

# Icons drawn from the side: their mirror image is as good a picture.
SIDEWAYS = (
    "chicken flamingo parrot elephant giraffe zebra whale dolphin tropical-fish turtle snail hedgehog "
    "ant beaver bison bug camel crocodile dodo duck kangaroo leopard lizard mammoth rhinoceros rooster sauropod "
    "seal shark skunk snake swan t-rex "
    "croissant watermelon fried-shrimp poultry-leg meat-on-bone teapot "
    "rocket airplane automobile sailboat tractor ambulance axe fire-engine helicopter high-heeled-shoe ice-skate "
    "locomotive megaphone motor-scooter police-car roller-skate running-shoe saxophone skateboard taxi trumpet"
)

# Where the icon's own name is not what a person would type.
EVERYDAY_NAMES = {
    "angry-face-with-horns": "devil",
    "automobile": "car",
    "bug": "caterpillar",
    "bullseye": "target",
    "cheese-wedge": "cheese",
    "closed-book": "book",
    "cooking": "fried egg",
    "deciduous-tree": "tree",
    "desktop-computer": "computer",
    "ear-of-corn": "corn",
    "fire-engine": "fire truck",
    "flying-saucer": "ufo",
    "fried-shrimp": "shrimp",
    "game-die": "dice",
    "gem-stone": "diamond",
    "glass-of-milk": "milk",
    "hatching-chick": "chick",
    "high-voltage": "lightning",
    "honeybee": "bee",
    "hot-beverage": "coffee",
    "hourglass-done": "hourglass",
    "kiwi-fruit": "kiwi",
    "lady-beetle": "ladybug",
    "leafy-green": "lettuce",
    "locked": "lock",
    "meat-on-bone": "meat",
    "mobile-phone": "phone",
    "motor-scooter": "scooter",
    "musical-keyboard": "piano",
    "pile-of-poo": "poo",
    "pool-8-ball": "eight ball",
    "poultry-leg": "chicken leg",
    "ringed-planet": "planet",
    "sauropod": "dinosaur",
    "t-rex": "tyrannosaurus",
    "tangerine": "orange",
    "tropical-fish": "fish",
    "vertical-traffic-light": "traffic light",
    "wrapped-gift": "gift",
}

# Light tints, so that the icons stand out. White is the background of a caption that names none.
BACKGROUNDS = {
    "red": (255, 138, 128),
    "yellow": (255, 241, 118),
    "green": (165, 214, 167),
    "cyan": (128, 222, 234),
    "blue": (130, 177, 255),
    "purple": (206, 147, 216),
    "pink": (248, 187, 208),
    "gray": (176, 180, 184),
}
WHITE = (255, 255, 255)


def caption_name(icon: str, category: str) -> str:
    """What a prompt calls an icon: `cat-face` among the animals is "cat"."""
    name = EVERYDAY_NAMES.get(icon, icon.replace("-", " "))
    return name.removesuffix(" face") if category == "animals" else name


@dataclass(frozen=True)
class Concept:
    name: str
    icon: str
    category: str

    @property
    def mirrored(self) -> bool:
        """Whether its pictures face either way."""
        return self.icon in SIDEWAYS.split()


@cache
def concepts() -> tuple[Concept, ...]:
    return tuple(
        Concept(caption_name(icon, category), icon, category)
        for category, icons in CONCEPTS.items()
        for icon in icons.split()
    )


@dataclass(frozen=True)
class Pictures:
    """How icons become training pictures. Places and sizes are in eighths of the side, so that every one of them lies
    on the latent grid at every side, and a seed's choice is one of a few that are plainly apart."""

    sides: tuple[int, ...] = (256, 128, 64)  # pixels; the least only at the beginning
    large: int = 6
    small: int = 4
    small_share: float = 0.3  # of the pictures of one object; of two, each is small
    places: int = 3  # along each axis: at either edge and between
    two_objects: float = 0.3
    on_background: float = 0.25


@dataclass(frozen=True)
class Training:
    """Length and pace of one trained stage."""

    steps: int
    learning_rate: float
    ema_decay: float
    warmup_steps: int = 200
    hold_steps: int | None = None  # from there on the learning rate falls with the square root of the step
    decay_share: float = 0.2  # last part of the run, over which the learning rate falls to zero
    muon: float | None = None  # learning rate of Muon for the matrices inside the U-Net; None is AdamW for them too


@dataclass(frozen=True)
class Captions:
    empty: float = 0.1  # trains the unguided branch
    without_style: float = 0.03
    unknown_word: float = 0.05  # makes words never trained on harmless


@dataclass(frozen=True)
class WeakIcons:
    """Which icons the trained denoiser draws wrong, alone on white, and how often they are shown from then on."""

    first_seed: int = 500_000  # far from those that the model is judged on
    pictures: int = 2  # drawn of each icon
    steps: int = 10  # half as many as shipped find the same icons
    weight: float = 6.0  # of an icon that came out wrong every time; of the others 1
    sizes: tuple[float, ...] = (0.75, 0.25, 0.0)  # share of the steps at each side
    odds_of_noise: float = 2.0  # odds of the flow time at the full side are multiplied by this


@dataclass(frozen=True)
class Recipe:
    seed: int = 20260
    held_out: float = 0.05  # of the combinations of each kind
    pictures: Pictures = Pictures()
    captions: Captions = Captions()
    autoencoder: Training = Training(steps=3000, learning_rate=1.5e-3, ema_decay=0.995)
    diffusion: Training = Training(
        steps=30000, learning_rate=1e-3, ema_decay=0.999, warmup_steps=50, hold_steps=300, muon=3e-3
    )
    batch: dict[int, int] = field(default_factory=lambda: {256: 16, 128: 32, 64: 64}, hash=False)
    # (step, share of the steps from there on at each side): what looks how is learnt fast on small pictures
    sizes: tuple[tuple[int, tuple[float, ...]], ...] = (
        (0, (0.0, 0.1, 0.9)),
        (2500, (0.1, 0.7, 0.2)),
        (5000, (0.5, 0.5, 0.0)),
    )
    weak_icons: WeakIcons = WeakIcons()
    weak_tuning: Training = Training(steps=3000, learning_rate=2e-4, ema_decay=0.998, decay_share=0.6, muon=6e-4)
    # Appendix F: the noisier half of the times, which mixed resolution draws at half size, is trained there only
    schedule_tuning: Training = Training(steps=3000, learning_rate=2e-4, ema_decay=0.998, muon=6e-4)
