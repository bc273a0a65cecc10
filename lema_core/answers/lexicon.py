"""The words and commands of answers: one table each, no logic."""

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
    "land": ("&and",), "lor": ("&or",), "varnothing": ("emptyset",), "|": ("|",), "lbrack": ("[",), "rbrack": ("]",),
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
CONNECTORS = {"and": "&and", "or": "&or"}
"""Words between two answers."""
UNITS = frozenset(
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
UNIT_NAMES = {
    "inch": "in", "inches": "in", "foot": "ft", "feet": "ft", "yard": "yd", "yards": "yd", "mile": "mi", "miles": "mi",
    "gram": "g", "grams": "g", "gm": "g", "pounds": "lb", "pound": "lb", "lbs": "lb", "ounce": "oz", "ounces": "oz",
    "liter": "l", "liters": "l", "litre": "l", "litres": "l", "second": "s", "seconds": "s", "sec": "s", "secs": "s",
    "minute": "min", "minutes": "min", "mins": "min", "hour": "h", "hours": "h", "hr": "h", "hrs": "h", "day": "d",
    "days": "d", "week": "wk", "weeks": "wk", "month": "mo", "months": "mo",
    "year": "yr", "years": "yr", "cents": "cent",
    "dollar": "$", "dollars": "$", "meter": "m", "meters": "m", "metre": "m", "metres": "m", "centimeter": "cm",
    "centimeters": "cm", "kilometer": "km", "kilometers": "km", "millimeter": "mm", "millimeters": "mm", "mm": "mm",
    "cm": "cm",
    "m": "m", "km": "km", "in": "in", "ft": "ft", "kg": "kg", "g": "g", "lb": "lb", "oz": "oz", "h": "h", "s": "s",
    "min": "min",
    "cent": "cent", "kilogram": "kg", "kilograms": "kg", "l": "l", "ml": "ml",
}  # fmt: skip
"""Units that name a scale: two different ones never measure the same with the same number."""
