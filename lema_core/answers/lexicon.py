"""The words and commands of answers: one table each, no logic."""

from fractions import Fraction

SPACING = frozenset(
    [
        "quad", "qquad", "\n", "\t", ",", ";", "!", ":", " ", "hspace", "left", "right", "big", "Big", "bigg",
        "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "limits", "nolimits", "displaystyle",
        "textstyle", "middle", "(", ")", "[", "]", "thinspace", "enspace", "space", "allowbreak", "hfill",
        "nobreak", ">", "/",
    ]
)  # fmt: skip
DROPPED = frozenset(
    [
        "boxed", "fbox", "text", "mathrm", "mathbf", "mathit", "mathsf", "textbf", "textit", "rm", "bf", "mbox",
        "boldsymbol", "operatorname", "textrm", "beginboxed", "displaylimits", "ensuremath", "mathstrut",
        "phantom",
    ]
)  # fmt: skip
COMMANDS: dict[str, tuple[str, ...]] = {
    "dfrac": ("frac",), "tfrac": ("frac",), "cfrac": ("frac",), "dbinom": ("binom",), "tbinom": ("binom",),
    "choose": ("choose",),
    "times": ("*",), "cdot": ("*",), "ast": ("*",), "div": ("/",), "le": ("<=",), "leq": ("<=",), "leqslant": ("<=",),
    "ge": (">=",), "geq": (">=",), "geqslant": (">=",), "lt": ("<",), "gt": (">",), "ne": ("!=",), "neq": ("!=",),
    "to": ("->",), "rightarrow": ("->",), "approx": ("approx",), "simeq": ("approx",), "lvert": ("|",), "rvert": ("|",),
    "vert": ("|",), "mid": ("|",), "lbrace": ("\\{",), "rbrace": ("\\}",), "{": ("\\{",), "}": ("\\}",), "%": ("%",),
    "$": (), "arcsin": ("asin",), "arccos": ("acos",), "arctan": ("atan",), "degree": ("deg",), "degrees": ("deg",),
    "infty": ("inf",), "infinity": ("inf",), "dots": ("dots",), "ldots": ("dots",), "cdots": ("dots",),
    "dotsb": ("dots",),
    "wedge": ("land",), "vee": ("lor",), "varnothing": ("emptyset",), "|": ("|",), "lbrack": ("[",), "rbrack": ("]",),
    "bmod": ("mod",), "pmod": ("mod",), "lg": ("log",), "arcctg": ("acot",), "tg": ("tan",), "ctg": ("cot",), "#": (),
    "&": (), "_": ("_",), "\\": ("row",), "langle": ("(",), "rangle": (")",), "-": (), "\"": (), "'": (), "`": (),
    "gets": ("=",), "percent": ("%",), "pct": ("%",), "percentage": ("%",), "setminus": ("setminus",),
    "backslash": ("setminus",),
    "varphi": ("phi",), "varepsilon": ("epsilon",), "imath": ("i",), "exp": ("exp",), "cupdot": ("cup",),
}  # fmt: skip
SIGNS: dict[str, tuple[str, ...]] = {
    "$": (), "**": ("^",), "==": ("=",), "=>": ("->",), "&": ("&",), '"': (), "`": (), "\x00": (), "\\": (),
    "||": ("|", "|"),
}  # fmt: skip
FUNCTIONS = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "arcsin", "arccos", "arctan",
        "sinh", "cosh", "tanh", "ln", "log", "lg", "exp", "sqrt", "pi", "infty", "infinity", "frac", "dfrac",
        "tfrac", "mod", "gcd", "lcm", "max", "min", "alpha", "beta", "gamma", "theta", "lambda", "percent",
        "pct", "percentage", "degrees", "degree",
    ]
)  # fmt: skip
CONNECTORS = {"and": "&and", "or": "&or", "factorial": "!"}
"""Words that are signs: those between two answers, and the factorial."""
_COUNTED = frozenset(
    [
        "mm", "cm", "m", "km", "in", "inch", "inches", "ft", "foot", "feet", "yd", "yard", "yards", "mi",
        "mile", "miles", "mph", "kph", "g", "kg", "gm", "gram", "grams", "mg", "lb", "lbs", "pound", "pounds",
        "oz", "ounce", "ounces", "ton", "tons", "l", "ml", "liter", "liters", "litre", "litres", "gallon",
        "gallons", "quart", "quarts", "pint", "pints", "cup", "cups", "s", "sec", "secs", "second", "seconds",
        "min", "mins", "minute", "minutes", "h", "hr", "hrs", "hour", "hours", "day", "days", "week", "weeks",
        "month", "months", "year", "years", "cent", "cents", "dollar", "dollars", "euro", "euros", "yuan",
        "rupees", "unit", "units", "square", "cubic", "sq", "cu", "squared", "cubed", "meter", "meters",
        "metre", "metres", "centimeter", "centimeters", "kilometer", "kilometers", "degree", "degrees",
        "radian", "radians", "people", "students", "apples", "ways", "times", "pieces", "bucks", "usd", "rs",
        "th", "st", "nd", "rd", "dozen", "pm", "am", "cm2", "percent", "points", "point", "per",
    ]
)  # fmt: skip
UNIT_SYMBOLS = frozenset("mgshlLNJWV")
"""Units of one letter. Behind a number they are units in a ``\\text{}``; the SI ones also apart from it: ``5 m``."""
_SAME_SCALE = {
    "mm": "millimeter millimeters millimetre millimetres", "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres", "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches", "ft": "foot feet", "yd": "yard yards", "mi": "mile miles",
    "mg": "milligram milligrams", "g": "gram grams gm", "kg": "kilogram kilograms", "lb": "pound pounds lbs",
    "oz": "ounce ounces", "ton": "tons tonne tonnes", "ml": "milliliter milliliters millilitre millilitres",
    "l": "liter liters litre litres", "gal": "gallon gallons", "quart": "quarts", "pint": "pints", "cup": "cups",
    "tablespoon": "tablespoons tbsp", "teaspoon": "teaspoons tsp",
    "s": "second seconds sec secs", "min": "minute minutes mins", "h": "hour hours hr hrs", "d": "day days",
    "wk": "week weeks", "mo": "month months", "yr": "year years", "decade": "decades", "century": "centuries",
    "cent": "cents penny pennies", "nickel": "nickels", "dime": "dimes", "$": "dollar dollars bucks usd",
    "acre": "acres", "hectare": "hectares", "deg": "degree degrees", "rad": "radian radians",
    "celsius": "", "fahrenheit": "", "kelvin": "kelvins", "n": "newton newtons", "j": "joule joules",
    "w": "watt watts", "v": "volt volts", "mi/h": "mph", "km/h": "kph kmph kmh",
}  # fmt: skip
UNIT_NAMES = {word: scale for scale, words in _SAME_SCALE.items() for word in (scale, *words.split())}
"""Units that name a scale: two different ones never measure the same with the same number."""
UNITS = _COUNTED | UNIT_NAMES.keys()
SCALES = {
    "dozen": Fraction(12), "hundred": Fraction(100), "thousand": Fraction(10**3), "million": Fraction(10**6),
    "billion": Fraction(10**9), "trillion": Fraction(10**12),
    "halves": Fraction(1, 2), "thirds": Fraction(1, 3), "fourths": Fraction(1, 4), "fifths": Fraction(1, 5),
    "sixths": Fraction(1, 6), "sevenths": Fraction(1, 7), "eighths": Fraction(1, 8), "ninths": Fraction(1, 9),
    "tenths": Fraction(1, 10), "hundredths": Fraction(1, 100), "thousandths": Fraction(1, 1000),
}  # fmt: skip
"""Words that multiply the number before them. Quarters are left out: they may be coins."""
NEGATIONS = frozenset(["not", "no", "non", "never", "neither", "nor", "without", "except", "cannot"])
QUALIFIERS = frozenset(
    [
        "odd", "even", "profit", "loss", "gain", "north", "south", "east", "west", "left", "right", "up", "down",
        "above", "below", "before", "after", "more", "less", "fewer", "greater", "smaller", "faster", "slower",
        "older", "younger", "increase", "decrease", "positive", "negative", "clockwise", "counterclockwise",
        "forward", "backward", "ahead", "behind", "prime", "composite",
    ]
)  # fmt: skip
"""Words behind a number that are no unit: two different ones say two different things."""
