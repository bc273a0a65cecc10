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
    "$": ("'$dollar",), "arcsin": ("asin",), "arccos": ("acos",), "arctan": ("atan",),
    "degree": ("deg",), "degrees": ("deg",), "infty": ("inf",), "infinity": ("inf",), "dots": ("dots",),
    "ldots": ("dots",), "cdots": ("dots",),
    "dotsb": ("dots",),
    "wedge": ("land",), "vee": ("lor",), "varnothing": ("emptyset",), "|": ("|",), "lbrack": ("[",), "rbrack": ("]",),
    "bmod": ("bmod",), "pmod": ("mod",), "lg": ("log",), "arcctg": ("acot",), "tg": ("tan",), "ctg": ("cot",), "#": (),
    "&": (), "_": ("_",), "\\": ("row",), "langle": ("(",), "rangle": (")",), "-": (), "\"": (), "'": (), "`": (),
    "arsinh": ("asinh",), "arcosh": ("acosh",), "artanh": ("atanh",), "arcoth": ("acoth",), "cosec": ("csc",),
    "sign": ("sgn",), "binomial": ("binom",), "doteq": ("approx",), "thickapprox": ("approx",),
    "iff": ("iff",), "land": ("land",), "lor": ("lor",), "notin": ("notin",), "lnot": ("lnot",), "neg": ("lnot",),
    **{"arc" + name: ("a" + name,) for name in ("cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch")},
    "gets": ("=",), "percent": ("%",), "pct": ("%",), "percentage": ("%",), "setminus": ("setminus",),
    "backslash": ("setminus",),
    "varphi": ("phi",), "varepsilon": ("epsilon",), "imath": ("i",), "exp": ("exp",), "cupdot": ("cup",),
}  # fmt: skip
SIGNS: dict[str, tuple[str, ...]] = {
    "$": (), "**": ("^",), "==": ("=",), "=>": ("->",), "&": ("&",), '"': (), "`": (), "\x00": (), "\\": (),
    "||": ("|", "|"), "€": ("'$euro",), "£": ("'$pound",), "₹": ("'$rupee",), "₩": ("'$won",), "₽": ("'$ruble",),
    "¥": (), "元": ("'yuan",),
}  # fmt: skip
CURRENCIES = frozenset(["'$dollar", "'$euro", "'$pound", "'$rupee", "'$won", "'$ruble"])
"""Signs of currencies as the lexer marks them until they stand behind their number; the yen and yuan share theirs."""
CURRENCY_CODES = {
    "usd": "'$dollar", "eur": "'$euro", "gbp": "'$pound", "inr": "'$rupee", "rs": "'$rupee", "krw": "'$won",
    "rub": "'$ruble",
}  # fmt: skip
"""Words before a number that are its currency."""
ALIGNED = frozenset(
    [
        "aligned", "align", "alignat", "alignedat", "gathered", "gather", "split", "eqnarray", "equation", "multline",
        "flalign",
    ]
)  # fmt: skip
ABBREVIATIONS = frozenset(["sec", "min"])
"""Functions that are units behind a number."""
FUNCTIONS = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "arcsin", "arccos", "arctan",
        "sinh", "cosh", "tanh", "ln", "log", "lg", "exp", "sqrt", "pi", "infty", "infinity", "frac", "dfrac",
        "tfrac", "mod", "gcd", "lcm", "max", "min", "alpha", "beta", "gamma", "theta", "lambda", "percent",
        "pct", "percentage", "degrees", "degree", "binom", "binomial", "floor", "ceil", "abs", "sgn", "sign",
        "asinh", "acosh", "atanh", "acoth", "asech", "acsch", "asec", "acsc", "coth", "sech", "csch", "arccot",
        "arcsec",
        "arccsc", "arcsinh", "arccosh", "arctanh", "arccoth", "arcsech", "arccsch", "arsinh", "arcosh", "artanh",
        "arcoth", "cosec", "tg", "ctg",
    ]
)  # fmt: skip
CONNECTORS = {"and": "&and", "or": "&or", "factorial": "!", "choose": "choose"}
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
    "mm": "millimeter millimeters millimetre millimetres 毫米",
    "cm": "centimeter centimeters centimetre centimetres 厘米 公分",
    "m": "meter meters metre metres 米", "km": "kilometer kilometers kilometre kilometres 千米 公里",
    "in": "inch inches", "ft": "foot feet", "yd": "yard yards", "mi": "mile miles",
    "mg": "milligram milligrams 毫克", "g": "gram grams gm 克", "kg": "kilogram kilograms kgs kilo kilos 千克 公斤",
    "lb": "pound pounds lbs",
    "oz": "ounce ounces", "ton": "tons tonne tonnes 吨", "ml": "milliliter milliliters millilitre millilitres 毫升",
    "l": "liter liters litre litres 升", "gal": "gallon gallons", "quart": "quarts", "pint": "pints", "cup": "cups",
    "tablespoon": "tablespoons tbsp", "teaspoon": "teaspoons tsp",
    "s": "second seconds sec secs 秒", "min": "minute minutes mins 分钟", "h": "hour hours hr hrs 小时",
    "d": "day days 天", "wk": "week weeks 周", "mo": "month months 月 个月", "yr": "year years 年", "decade": "decades",
    "century": "centuries",
    "cent": "cents penny pennies", "nickel": "nickels", "dime": "dimes", "$": "dollar dollars buck bucks usd 美元",
    "euro": "euros eur 欧元", "rupee": "rupees inr rs", "yuan": "rmb cny 元 块 人民币", "yen": "jpy 円 日元",
    "won": "원", "ruble": "rubles rouble roubles рублей рубля рубль", "peso": "pesos", "franc": "francs",
    "krona": "kronor", "rand": "", "lira": "liras", "shilling": "shillings",
    "cm2": "平方厘米", "m2": "平方米", "km2": "平方千米 平方公里", "cm3": "立方厘米", "m3": "立方米", "acre": "acres",
    "hectare": "hectares", "deg": "degree degrees", "rad": "radian radians",
    "celsius": "", "fahrenheit": "", "kelvin": "kelvins", "n": "newton newtons", "j": "joule joules",
    "w": "watt watts", "v": "volt volts", "mi/h": "mph", "km/h": "kph kmph kmh",
}  # fmt: skip
UNIT_NAMES = {word: scale for scale, words in _SAME_SCALE.items() for word in (scale, *words.split())}
"""Units that name a scale: two different ones never measure the same with the same number."""
UNITS = _COUNTED | UNIT_NAMES.keys()
FACTORS: dict[str, tuple[str, Fraction]] = {
    **{name: ("length", Fraction(factor)) for name, factor in (
        ("mm", "0.001"), ("cm", "0.01"), ("m", "1"), ("km", "1000"), ("in", "0.0254"), ("ft", "0.3048"),
        ("yd", "0.9144"), ("mi", "1609.344"))},
    **{name: ("mass", Fraction(factor)) for name, factor in (("mg", "0.001"), ("g", "1"), ("kg", "1000"))},
    **{name: ("weight", Fraction(factor)) for name, factor in (("oz", "1"), ("lb", "16"))},
    **{name: ("time", Fraction(factor)) for name, factor in (
        ("s", 1), ("min", 60), ("h", 3600), ("d", 86400), ("wk", 604800))},
    **{name: ("years", Fraction(factor)) for name, factor in (("mo", 1), ("yr", 12), ("decade", 120), ("century",
    1200))},
    **{name: ("metric volume", Fraction(factor)) for name, factor in (("ml", "0.001"), ("l", "1"))},
    **{name: ("volume", Fraction(factor)) for name, factor in (
        ("teaspoon", "1/3"), ("tablespoon", 1), ("cup", 16), ("pint", 32), ("quart", 64), ("gal", 256))},
    **{name: ("dollars", Fraction(factor)) for name, factor in (
        ("cent", "0.01"), ("nickel", "0.05"), ("dime", "0.1"), ("$", "1"))},
    "acre": ("area", Fraction("4046.8564224")), "hectare": ("area", Fraction(10000)),
}  # fmt: skip
"""What a unit measures, and how many of one unit of that it is; units that are not here are not converted."""
CURRENCY_UNITS = frozenset(
    ["$", "euro", "rupee", "yuan", "yen", "won", "ruble", "peso", "franc", "krona", "rand", "lira", "shilling"]
)
FILLERS = frozenset(
    [
        "a", "an", "the", "of", "in", "on", "at", "to", "for", "per", "each", "total", "all", "altogether", "more",
        "and",
        "is", "are", "was", "were", "be", "there", "that", "this", "by", "from", "with", "left", "remaining", "only",
        "about", "exactly", "answer", "units", "unit", "answers", "it", "s", "will", "have", "has", "had", "he",
        "she",
        "they", "we", "you", "i", "been", "would", "different", "possible", "such", "distinct", "number", "value",
    ]
)  # fmt: skip
"""Words behind a number that do not say what is counted."""
GENERIC_LABELS = FILLERS | {"final", "result", "solution", "sum", "thus", "therefore", "so", "hence", "correct"}
"""Words before a colon that do not say whose answer follows."""
ENGLISH = frozenset(
    [
        "bad", "cab", "dab", "dad", "add", "out", "the", "for", "has", "had", "how", "per", "new", "old", "big",
        "no", "on", "yes", "not", "odd",
        "saw", "was", "god", "dog", "are", "ear", "era", "now", "own", "won", "ten", "net",
        "two", "one", "six", "all", "any", "tap", "pat", "apt", "top", "pot", "opt", "ate", "eat", "tea", "art",
        "rat", "tar",
        "may", "men", "day", "red", "sun", "mon", "tue", "wed", "thu", "fri", "sat", "dne", "end", "den", "act",
        "cat",
        "left", "felt", "east", "seat", "west", "even", "none", "true", "item", "time", "emit", "both", "data",
        "nine",
        "five", "four", "zero", "live", "evil", "stop", "post", "spot", "pots", "tops", "team", "meat", "mate",
        "if", "so",
        "or", "an", "is", "it", "at", "to", "of", "do", "go", "us", "as", "am", "pm", "me", "my", "we", "he", "be",
        "by",
    ]
)  # fmt: skip
"""Short words that are no product of unknowns."""
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
        "forward", "backward", "ahead", "behind", "prime", "composite", "canadian", "australian", "us",
    ]
)  # fmt: skip
"""Words behind a number that are no unit: two different ones say two different things."""
