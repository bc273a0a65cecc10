r"""A catalogue of texts that make patterns and loops superlinear: repetition of every class that model text shows.

``patterns(size)`` returns about ``size`` characters of each. A function is linear if twice the size takes at most
twice the time; ``superlinear`` finds those that are not, by CPU time and at sizes where the time can be measured.
"""

import time
from collections.abc import Callable, Mapping

CLASSES = {
    "spaces": " ", "newlines": "\n", "blank lines": "\n \n", "tabs": "\t", "carriage returns": "\r\n",
    "no-break spaces": "\u00a0", "digits": "7", "ones and commas": "1,", "ones and points": "1.", "thousands": "1,000,",
    "blank thousands": "1 000 ", "numbers": "12 ", "decimals": ".5", "letters": "a", "capitals": "A", "words": "word ",
    "capital words": "Word ", "one word": "the ", "underscored": "_a", "dotted": "a.", "dotted call": "a.b(",
    "hyphens": "-", "hyphenated": "a-", "dashes": "–", "plus": "+", "equals": "=", "stars": "*", "slashes": "/",
    "backslashes": "\\", "carets": "^", "hashes": "#", "tildes": "~", "pipes": "|", "dollars": "$",
    "escaped dollars": r"\$", "percent": "%", "ampersands": "&", "at signs": "@", "exclamation marks": "!",
    "question marks": "?", "points": ".", "ellipses": "...", "commas": ",", "semicolons": ";", "colons": ":",
    "apostrophes": "'", "quotes": '"', "curly quotes": "“", "backticks": "`", "underscores": "_", "zeros": "0",
    "less than": "<", "greater than": ">", "open marks": "<<", "closed marks": ">>", "marks": "<<1+1=2>>",
    "open parentheses": "(", "closed parentheses": ")", "open brackets": "[", "closed brackets": "]",
    "open braces": "{", "closed braces": "}", "pairs of braces": "{}", "pairs of parentheses": "()",
    "sums": "1+", "products": "2*", "quotients": "1/", "powers": "2^", "double stars": "2**", "signed": "+-",
    "equations": "1=2 ", "true equations": "1+1=2 ", "chains": "1+1=", "operators": "+*-/", "unary": "- ",
    "times letters": "2x", "letters and digits": "a1", "clock": "10:30 ", "ratio": "1:", "mixed numbers": "1 1/2 ",
    "percents": "5% ", "money": "$5 ", "units": "5 cm ", "superscripts": "²", "vulgar fractions": "½",
    "ideographs": "答", "ideographic stop": "。", "full-width digits": "１", "full-width colon": "：",
    "Arabic digits": "٣", "combining marks": "a\u0301", "only combining marks": "\u0301", "joiners": "👩\u200d",
    "emoji": "💥", "zero-width": "\u200b", "right to left": "\u202e", "surrogates": "\ud800", "NUL": "\x00",
    "escapes": "\x1b[31m", "line separators": "\u2028", "accents": "é", "sharp s": "ß", "dotted capital I": "İ",
    "open boxes": r"\boxed{", "bare boxes": r"\boxed ", "boxes": r"\boxed{1}", "joined boxes": r"\boxed{1}, ",
    "open formulas": r"\[", "closed formulas": r"\]", "open inline": r"\(", "closed inline": r"\)",
    "inline formulas": r"\(x\)", "dollar formulas": "$x$ ", "display formulas": "$$x$$", "escaped braces": r"\{",
    "fractions": r"\frac{1}{", "short fractions": r"\frac12", "roots": r"\sqrt{", "texts": r"\text{a}",
    "open texts": r"\text{", "functions": r"\sin", "commands": r"\a", "matrices": r"\begin{matrix}",
    "ends": r"\end{matrix}", "rows": r"1 & 2 \\ ", "spacings": r"\quad", "thin spaces": r"\,", "left": r"\left(",
    "drawings": "[asy]", "closed drawings": "[/asy]", "drawings with text": "[asy]draw(A--B);[/asy]",
    "thinking": "<think>", "closed thinking": "</think>", "thoughts": "<think>a</think>", "reasoning": "<reasoning>",
    "channels": "<|channel|>", "analysis": "<|channel|>analysis<|message|>", "bracketed thinking": "[THINK]",
    "tags": "<answer>", "closed tags": "</answer>", "tagged answers": "<answer>1</answer>", "any tags": "<b>",
    "end tokens": "</s>", "turns": "<|im_end|>", "more turns": "<|eot_id|>", "open tokens": "<|",
    "hash cues": "#### ", "answered hashes": "#### 5 ", "answer cues": "The answer is ", "answers": "The answer is 5. ",
    "answer": "answer ", "answer is": "answer is", "labels": "A: ", "line labels": "\nA: ", "Answer labels": "Answer: ",
    "bold answers": "**Answer:** ", "headings": "\n### Answer\n", "bold headings": "\n**Final Answer**\n",
    "results": "The result is 5. ", "conclusions": "Therefore, ", "denials": "not ", "retractions": "Wait, ",
    "corrections": "The answer is 5. Wait, that is wrong. ", "choices": "Choice: (B) ", "options": "(A) 1 (B) 2 ",
    "option lines": "\nA. 1", "JSON": '{"answer": ', "JSON objects": '{"answer": 1} ', "JSON lists": "[1,",
    "quoted keys": '"a":', "escaped quotes": '\\"', "Chinese cues": "答案：", "French cues": "Réponse : ",
    "Step": "Step ", "steps": "Step 1: ", "step lines": "\nStep 1: 2+2=4.", "numbered lines": "\n1. ",
    "bullets": "\n- ", "starred lines": "\n* ", "line hashes": "\n#", "quoted lines": "\n> ", "rules": "\n---\n",
    "fences": "```", "line fences": "\n```\n", "fenced cues": "#### ```\n", "code": "\n```python\nx = 1\n```\n",
    "question lines": "\nQ", "question labels": "\nQuestion: ", "spaced questions": "\nQuestion  ",
    "line spaces": "\n    ", "spaced stars": "* ", "spaced hashes": "# ", "stars and spaces": "** **",
    "explanations": "Incorrect Step: 1\nExplanation: a\n", "solutions": "Correct Solution:\n",
    "table rows": "| 1 | 2 |\n",
    "links": "[a](", "entities": "&amp;", "sentences": "He has 5 apples. ", "two words": "1 1 1 2 1 2 ",
    "URLs": "http://a.b/c ", "mail": "a@b.c ", "dates": "2020-01-02 ", "versions": "1.2.3.", "exponents": "1e9",
    "template": "{{ x }}", "format": "{0}", "percent format": "%s", "HTML": "<br/>", "open HTML": "<a href=",
}  # fmt: skip
"""One unit of each class, by name."""

NESTED = {
    "nested braces": ("{", "1", "}"), "nested parentheses": ("(", "1", ")"), "nested brackets": ("[", "1", "]"),
    "nested marks": ("<<", "1", ">>"), "nested boxes": (r"\boxed{", "1", "}"),
    "nested fractions": (r"\frac{1}{", "1", "}"),
    "nested roots": (r"\sqrt{", "2", "}"), "nested texts": (r"\text{", "a", "}"), "nested tags": ("<b>", "1", "</b>"),
    "nested thinking": ("<think>", "1", "</think>"), "nested JSON": ('{"answer":', "1", "}"),
    "nested lists": ("[", "1", ",]"), "nested matrices": (r"\begin{matrix}", "1", r"\end{matrix}"),
    "nested powers": ("2^{", "2", "}"), "nested left": (r"\left(", "1", r"\right)"), "nested quotes": ("“", "a", "”"),
}  # fmt: skip
"""What opens, what is inside, what closes."""

BEHIND = {
    "a cue, then digits": ("The answer is ", "7", ""), "a cue, then letters": ("The answer is ", "a", ""),
    "a cue, then underscores": ("The answer is ", "_a", ""), "a cue, then spaces": ("The answer is", " ", "5."),
    "a cue, then newlines": ("The answer is", "\n", "5."), "a cue, then signs": ("The answer is ", "-", "5"),
    "a cue, then open formulas": ("The answer is ", r"\[", ""), "a cue, then boxes": ("The answer is ", r"\boxed{", ""),
    "a cue, then words": ("The answer is ", "word ", "5."), "a cue, then brackets": ("The answer is 5 ", "(", ""),
    "an answer, then newlines": ("The answer is 5.", "\n", ""),
    "an answer, then Wait": ("The answer is 5.", " Wait,", ""),
    "an answer, then end tokens": ("The answer is 5", "<|im_end|>", ""), "hashes, then fences": ("#### ", "```\n", ""),
    "a step, then newlines": ("Step 1: 2+2=4.", "\n", "The answer is 4."),
    "a step, then spaces": ("Step 1: 2+2=4.", " ", "The answer is 4."),
    "a question, then spaces": ("\nQ", " ", "x"), "a sum, then spaces": ("1 +", " ", "1 = 3"),
    "digits, then a letter": ("", "1", "x"), "digits and commas, then a letter": ("", "1,1", "x"),
    "spaces, then a letter": ("", " ", "x"), "newlines, then a letter": ("", "\n", "x"),
    "words, then a number": ("", "word ", "= 5"), "an open string": ('{"answer": "', "a", ""),
    "an open tag, then text": ("<answer>", "a ", ""), "open thinking, then text": ("<think>", "a ", ""),
    "an open drawing, then text": ("[asy]", "draw(); ", ""), "an open fence, then text": ("```", "x = 1\n", ""),
    "an open mark, then digits": ("<<", "1+", ""), "an open dollar, then text": ("$", "x ", ""),
    "an open box, then escapes": (r"\boxed{", r"\{", ""), "a heading, then newlines": ("### Answer", "\n", "5"),
    "a bold heading, then stars": ("**Answer", "*", "5"), "a choice, then letters": ("Choice: ", "AB", ""),
    "an equation, then units": ("3 + 4 = 8", " apples", ""), "an equation, then signs": ("3 = ", "+", "4"),
}  # fmt: skip
"""What stands first, what is repeated, what stands last: the repetition has something that it must reach."""


def patterns(size: int) -> dict[str, str]:
    """Return every pattern of the catalogue, by name, at about ``size`` characters."""
    texts = {name: repeated(unit, size) for name, unit in CLASSES.items()}
    for name, (opening, inside, closing) in NESTED.items():
        depth = max(1, size // (len(opening) + len(closing)))
        texts[name] = opening * depth + inside + closing * depth
    for name, (first, unit, last) in BEHIND.items():
        texts[name] = first + repeated(unit, size - len(first) - len(last)) + last
    return texts


def repeated(unit: str, size: int) -> str:
    """Return ``unit`` as often as fits into ``size`` characters."""
    return unit * max(1, size // len(unit))


def superlinear(
    function: Callable[[str], object],
    texts: Callable[[int], Mapping[str, str]] = patterns,
    *,
    small: int = 2_000,
    factor: int = 4,
    slack: float = 2.5,
    floor: float = 0.02,
) -> list[str]:
    """Return the names of the patterns on which ``function`` is slower than linear, with its times in seconds.

    ``small`` and ``small * factor`` are the sizes in characters. Superlinear is more than ``factor * slack`` times the
    CPU time of the small size; times below ``floor`` seconds are noise. A finding is measured again before it counts.
    """
    larger = texts(small * factor)
    found = []
    for name, text in texts(small).items():
        if (long := cpu_seconds(function, larger[name])) < floor:
            continue
        for _ in range(3):
            short = max(cpu_seconds(function, text), floor / factor / slack)
            long = min(long, cpu_seconds(function, larger[name]))
            if long <= factor * slack * short:
                break
        else:
            found.append(f"{name}: {short:.3f} s at {small}, {long:.3f} s at {small * factor} characters")
    return found


def cpu_seconds(function: Callable[[str], object], text: str) -> float:
    """Return the CPU time of one call in this process."""
    start = time.process_time()
    function(text)
    return time.process_time() - start
