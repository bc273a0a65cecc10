"""Kinds of answers, each by many of its forms: the verdict of ``judge`` on a whole text.

A text that denies its answer, takes it back or has not finished its thinking must never be right; a text that says its
answer must be right in every way of saying it.
"""

import pytest

from lema_core.answers import judge
from lema_core.answers.judge import verify_pair

PLACES = ("bank", "library", "mall", "school", "mosque")
ITEMS = ("a1", "b1", "c1", "d1")
RIGHT = ("right",)
NOT_RIGHT = ("ambiguous", "none", "wrong", "unknown")
OPEN = ("ambiguous", "none", "unknown")

TAKEN_BACK_OR_DENIED_IN_WORDS = [
    "The answer is 5. Wait, that is wrong. It should be 6.", "The answer is 5... no wait, 6.",
    "The answer is 5 (wrong).", "Bob thinks the answer is 5. Actually it is 6.",
    "#### 5\nWait, I made a mistake. The total is 6.",
    "The answer is 5. Hmm, that doesn't seem right. Let me recompute: 2+4=6.",
    "The answer is 5.\n\nActually, she also bought one more, so 6.", "The answer is 5, no, 6.",
    "The answer is 5 - sorry, 6.", "The answer is not 5.", "The answer is definitely not 5.", "The answer isn't 5.",
    "The answer cannot be 5.", "It is wrong that the answer is 5.", "A wrong answer is 5.",
    "The incorrect answer is 5.", "The answer is 5? No, it's 6.", "The answer is 5. Scratch that, 6.",
    "The answer is 5. Correction: 6.", "I first thought the answer is 5.", "At first glance the answer is 5.",
    "Most people say the answer is 5.", "One might think the answer is 5.", "If she had 3, the answer would be 5.",
    "The answer is 5. That is incorrect.", "The answer is 5, but that is wrong.",
    "The answer is 5, which is incorrect.", "Answer: 5 (incorrect)",
    "The answer is 5. Oops! I forgot to subtract 1.", "The answer is 5. But wait, we need to add the tax. 6",
    "The answer is 5. Let me double check. 2+2=4, so it should be 6.",
    "The answer is 5. However, this does not include the tax of 1, so the total is 6.",
    "The answer is 5. No. The answer is six.", "<answer>5</answer> Wait, that's wrong.",
    '{"answer": 5} Actually, no, it is 6.', "The answer is 5. I made an error above.", "Answer: 5. Never mind, 6.",
    "The answer is 5. My mistake: 6.", "The answer is 5. Let's recheck: 3 + 3 = 6.",
    "The answer is 5. Hold on, 3+3=6.", "The answer is 5. I think I miscounted.",
    "The answer is 5. On second thought, it's 6.", "The answer is 5. Wait. 3 + 3 = 6.",
    "The answer is neither 5 nor 6.", "The answer is anything but 5.", "Someone claimed the answer is 5.",
    "The answer is 5. This is false.", "The answer is 5; scratch that.",
    "The answer is 5. Apologies, the right answer is 6", "I doubt the answer is 5.", "The answer of 5 is wrong.",
    "The answer is 5 → wrong, 6.", "#### 5 (this is wrong)", "#### 5. No, 6",
    "The answer is 5. That can't be right since there are 6 people.", "The answer is 5, oh wait, 6",
    "The answer is 5. Strike that; 6.", "The answer is 5. I should have multiplied: 6.",
    "The answer is 5, or rather 6.", "My friend says the answer is 5.", "The answer is 5. Edit: 6",
    "Final answer: 5. Revised answer: 6", "The answer is 5. This answer is not correct, it must be 6.",
    "The answer is 5. EDIT: the answer should have been 6.", "The answer is 5\n\n(This is wrong, see below.)\n6",
    "The answer is 5. *Wait* — that's the number of dogs, not cats.", "The answer is 5, although I am wrong.",
    "The answer is 5? Wait: 6.", "The answer is 5. Hm, 2+4 is 6.", "The answer is 5. I take that back.",
    "The answer is 5. Ignore that.", "The answer is 5. I apologize for the confusion; it's 6.",
    "The answer is 5. On reflection, 6.", "The answer is 5. Hang on, 6.", "The answer is 5 — no.",
    "The answer is 5. Nope, 6.", "The answer is 5. Well, actually 6.", "The answer is 5. Or is it 6?",
    "The answer is 5 (not correct).", "The answer is 5. It turns out to be 6 instead.",
    "The answer is 5. But that contradicts the condition.", "The answer is 5. This contradicts the statement.",
    "The answer is 5. That is impossible.", "The answer is 5. That is too small, so 6.",
    "The answer is 5. Let me redo this.", "The answer is 5. Let me reconsider",
    "The answer is 5. Let me try again.", "The answer is 5. We made a mistake in step 2.",
    "The answer is 5. There is a mistake in step 2.", "The answer is 5. There was an error: we forgot the tax.",
    "The answer is 5. Mistake! It is 6.", "The answer is 5. Wrong!", "The answer is 5. Not quite: 6.",
    "The answer is 5. Not right.", "The answer is 5. Incorrect.", "It would be a mistake to say the answer is 5.",
    "Do not conclude that the answer is 5.", "Nobody would say the answer is 5.",
    "A student answered 5. The answer is 5, he says, which is wrong.", "According to Bob, the answer is 5.",
    "In Bob's opinion the answer is 5.", "Bob: The answer is 5. Eva: No, 6.", "The answer is supposedly 5.",
    "The answer is allegedly 5, but really 6.", "The answer is almost 5.", "The answer is nearly 5.",
    "The answer is close to 5.", "The answer is not equal to 5", "The answer is other than 5",
    "The answer can't be 5", "The answer would be 5 if there were no tax.", "The answer would have been 5.",
    "The answer used to be 5.", "The answer was 5 before the tax; after it, 6.",
    "The answer is 5 only if x > 3, else 6.", "The answer is 5 or so.", "The answer might be 5 or 6.",
    "If x is even the answer is 5, otherwise 6.",
]  # fmt: skip
TAKEN_BACK_OR_DENIED_IN_BOXES = [
    r"\boxed{5} is incorrect; it should be 6.", r"The answer is not $\boxed{5}$.",
    r"The answer is not \boxed{5}, it is 6.", r"So it cannot be \boxed{5}.", r"$\boxed{5}$? No, that's wrong.",
    r"It is \boxed{5}. Wait, I forgot a factor. It is 6", r"\boxed{5} is not the answer.",
    r"\boxed{5} was my first guess, but it is wrong.", r"The wrong answer is \boxed{5}.",
    r"I get \boxed{5}. Hmm, let me recheck.", r"We don't get \boxed{5}.", r"$x \neq \boxed{5}$",
    r"\boxed{5} (wrong)", r"The answer isn't $\boxed{5}$", r"I don't think the answer is $\boxed{5}$.",
    r"Bob says the answer is $\boxed{5}$.", r"instead of \boxed{5}",
    r"\boxed{5}. Actually, the answer should be $6$.", "The final answer is $5$. Wait, no: $6$.",
    r"First \boxed{5}, but let me recheck. It should be \boxed{", r"\boxed{5",
    "The answer is definitely and without any doubt not equal to the value $5$.",
    r"A common mistake is to answer \boxed{5}.", r"You might get $\boxed{5}$ here. The tax comes on top.",
    r"The naive answer is \boxed{5}.",
    r"It equals $\boxed{5}$, which is wrong.", r"$\boxed{5}$ does not satisfy the equation.",
    r"\boxed{5} -- wrong!", r"\boxed{5} Wait, I need to recheck.",
    "\\boxed{5}\n\nHmm, but 5 is not prime. So the answer must be different.", r"Not $\boxed{5}$ but $6$.",
    r"\boxed{5} is what Bob got, but it is incorrect.", r"It can't possibly be $\boxed{5}$.",
    r"The value is never \boxed{5}.", r"\boxed{5}? Let me double check: $2+4=6$. So it's $6$.",
    r"$\boxed{5}$ would be the answer if ...", r"A tempting but wrong answer is $\boxed{5}$.",
    "The answer is $5$. This is not right.", r"I doubt that it is $\boxed{5}$",
    r"It is false that $x = \boxed{5}$.",
]  # fmt: skip
SAID_WITH_CONFIDENCE = [
    "The answer is 5. I hope this helps.", "The answer is 5. Let me verify: 2 + 3 = 5.",
    "The answer is 5. Wait, let me verify: 2+3=5. Yes, that is correct.", "The answer is 5, not 6.",
    "It is not hard to see that the answer is 5.", "I think the answer is 5.",
    "The answer is 5. There are no other solutions.", "The answer is 5 because 2 + 3 = 5.",
    "The answer is 5. It does not matter in which order.", "The answer is 5. Note that 3 of them are red.",
    "The answer is 5 apples.", "We conclude that the answer is 5.", "**Answer: 5**", "The answer is:\n5",
    "The answer is 5!", "The answer is **5**!", "Wait, I was wrong. The answer is 5.",
    "The answer is 6. No wait, the answer is 5.", "No, the answer is 5.", "The answer is 5. (2 + 3 = 5)",
    "The answer is 5 (2 + 3 = 5, not 6).", "The answer is 5. This is because it is incorrect to count the baby.",
    "So the answer is 5. Done.", "The answer is 5. Easy!", "I am not sure, but the answer is 5.",
    "The correct answer is 5.", "Therefore the answer is 5 dollars.", "The answer is 5, as expected.",
    "The answer is therefore 5.", "The answer is thus 5", "The answer comes to 5.", "the final answer = 5",
    "ANSWER: 5", "The answer to the question is 5.",
]  # fmt: skip
UNFINISHED_THINKING = [
    "<think>So perhaps the answer is 12. Let me check again", "<thinking>The answer is 12", "<reasoning>\n#### 12",
    "[THINK]the answer is 12", "<|channel|>analysis<|message|>The answer is 12.",
    "<think>\nx\n</think>\n<think>The answer is 12", "<thought>The answer is 12.",
    "<think>The answer is 12.</think>", "<THINK>The answer is 12.", "◁think▷The answer is 12",
    "<|begin_of_thought|>the answer is 12", "analysisThe answer is 12.", "<scratchpad>The answer is 12",
    "<think>The answer is 12.</think>\nThe answer is 13.", "The answer is 12.</think> I give up.",
    "<seed:think>The answer is 12", "<|START_THINKING|>The answer is 12",
    "<think>The answer is 12.\n\nThe answer is 12.", "<reflection>the answer is 12",
    "<inner_thoughts>The answer is 12",
]  # fmt: skip
FINISHED_THINKING = [
    "<think>The answer is 13.</think>\nThe answer is 12.", "The answer is 13?</think>The answer is 12.",
    "<reasoning>a</reasoning>\n<answer>12</answer>", "<think>hm</think>#### 12",
    "<|channel|>analysis<|message|>13<|end|><|start|>assistant<|channel|>final<|message|>The answer is 12.<|return|>",
    "[THINK]13[/THINK]The answer is 12.", "analysisWe need 13.assistantfinalThe answer is 12.",
    "<think>\n</think>\n\n**Answer:** 12", "I think the answer is 12.",
]  # fmt: skip
CUES_OF_EVERY_KIND = [
    "<answer>18</answer>", "<answer> 18 </answer>.", "<answer>\n18\n</answer>", "<ANSWER>18</ANSWER>",
    "<final_answer>18</final_answer>", "<answer>The answer is 18</answer>", "<answer>$18</answer>",
    "<answer>18 dollars</answer>", r"<answer>\boxed{18}</answer>", "<answer>18", "[ANSWER]18[/ANSWER]",
    "**Final Answer**\n\n18", "### Answer\n18", "## Final Answer:\n\n18", "#### Answer: 18",
    "### Final answer\n\n**18**", "Final Answer\n18", "Answer\n\n18", "__Answer:__ 18", "**Answer**: 18",
    "**Answer:**\n18", "### Answer\n$18", "Answer\n------\n18", "✅ Final Answer:\n18", "Answer - 18", "Answer – 18",
    "Answer — 18", '{"answer": 18}', '{"answer": "18"}', '```json\n{"answer": 18}\n```', "{'answer': 18}",
    '{"final_answer": 18}', '{"reasoning": "x", "answer": 18}', '{"answer": "18 dollars"}', '{"answer":18.0}',
    '{\n  "answer": "18"\n}', '{"finalAnswer": 18}', '{"final answer": "18"}', '{"answer": "$18"}',
    '{"answer": "\\\\boxed{18}"}', "The answer is 18<|eot_id|>", "The answer is 18</s>",
    "18 is it. The answer is 18.<|im_end|>", "#### 18<|endoftext|>", "The answer is 18<end_of_turn>",
    "The answer is 18.<｜end▁of▁sentence｜>", "The answer is 18 <|im_end|>\n",
    "The answer is 18.<|im_end|>\n<|im_start|>user\nNo, the answer is 19",
    "答案：18", "答案是18。", "最终答案为18", "答：18",
    "因此，答案是 **18**。", "Réponse : 18", "La réponse est 18.", "Réponse finale : **18**", "Antwort: 18",
    "Die Antwort ist 18.", "Die Antwort lautet 18.", "Respuesta: 18", "La respuesta es 18.",
    "La respuesta final es 18 dólares.", "Resposta: 18", "A resposta é 18.", "La risposta è 18.", "Ответ: 18",
    "Ответ — 18.", "答えは18です。", "答え：18", "정답: 18", "정답은 18입니다.", "답: 18",
    "Jawaban: 18", "Jawabannya adalah 18.",
    "Cevap: 18", "Đáp số: 18", "Đáp án là 18", "Odpowiedź: 18", "Svaret är 18.", "Het antwoord is 18.", "الجواب: 18",
    "उत्तर: 18", "คำตอบคือ 18", "Ans: 18", "Ans. = 18", "ans = 18", "The answer is <b>18</b>.",
    "Answer: <strong>18</strong>", "The answer is `18`", 'The answer is "18".',
    "The answer is 18 (9 eggs at $2 each).", "The answer is 18 (9 x 2 = 18).",
    "The answer is 18. (I checked: 18/9 = 2.)", "The answer is 18 (rounded from 17.6).",
    "The answer is: 18 (eighteen).", "Answer: 9 * 2 = 18", "Answer: m = 9*2 = 18",
    "The answer is 9 + 9 = 18 dollars.", "Final result: 18", "The result is 18", "The result is 18.",
    r"The final answer is $\boxed{18}$.", "**The final answer is 18**", "> Answer: 18", "- Answer: 18",
    "1. Answer: 18", "Therefore, she has 18 dollars.", "Thus, the total is 18.", "Hence Tom walked 18 meters.",
    r"The final answer is: $\boxed{18}$", "The final answer is: 18", r"Therefore, the total is \(\boxed{18}\).",
    r"So the answer is $\boxed{18}$. I hope this explanation helps!", "**Answer: $18**", "Answer: **$18 per day**",
    "Hence, Janet makes $18 every day at the farmers' market.", "The answer is **18 dollars** per day.",
    "**Final Answer:** Janet makes **$18** every day.", "### Final Answer\nJanet makes **$18** every day.",
    "#### Final answer: 18 dollars", r"**Final Answer**: $\boxed{18}$", "**Answer**\n\n$\\boxed{18}$",
    "Final answer: $18.", "The answer: 18", "My answer is 18.", "My final answer is 18.", "So our answer is: 18",
    "Thus the answer is eighteen (18).", "Answer = 18", "Answer: $$18$$", r"Answer: \(18\)", r"Answer: \[18\]",
    "Answer:\n\n\\[\n18\n\\]", "The answer is\n\n$$18$$", "Answer:18", "answer:18", "The answer is $18$ dollars.",
    r"\boxed{18 \text{ dollars}}", r"\boxed{\$18}", r"\boxed{18}.", r"$\boxed{18}$ dollars", r"**\boxed{18}**",
    "The answer is 18.\n", "The answer is 18 .", "The answer is 18...", "A: 18 dollars", "A: $18.",
    "Answer: She makes $18.", "Answer: Janet makes 18 dollars every day at the farmers' market.",
    "**Answer:** She makes 18 dollars every day.", "<answer>She makes $18 per day.</answer>",
    "<answer>\nShe makes $18 per day.\n</answer>", '{"answer": "She makes $18."}',
    '{"explanation": "9*2=18", "answer": 18, "confidence": 0.9}',
    '{"answer": 18, "explanation": "9 eggs at 2 dollars"}', '{"answer":"18","unit":"dollars"}', '[{"answer": 18}]',
    '{"result": {"answer": 18}}', "answer: 18\nconfidence: high", "<final>18</final> The answer is 18",
    "The answer to this problem is 18.", "The answer to the problem is **18**", "The correct answer is: **18**",
    "Result: 18", "**Result:** 18", "The answer is: 18 🎉", "The answer is 18 ✅", "✅ **Answer: 18**",
    "Answer ➡ 18", "Answer => 18", "Answer -> 18", "The answer is 18\n```", "```\nAnswer: 18\n```",
    "The answer is ``18``.", "Jane has 18 in total.\n\nThe answer is 18.\n\n---\n*Note: prices exclude tax.*",
    "The answer is 18. If you have questions, ask!", "The answer is 18. Would you like another problem?",
    "The answer is 18. Let me know if you need help!", "The answer is 18. Great job!",
    "The answer is 18. Remember to check your units.", "The answer is 18. Notice that each egg costs $2.",
    "The answer is 18. This matches our estimate.", "The answer is 18. You can check: 18 / 2 = 9.",
    "The answer is 18. Let's check: 9 * 2 = 18. Correct!",
    "The answer is 18. To double-check, 16 - 3 - 4 = 9 and 9 * 2 = 18.", "The answer is 18, which is 2 * 9.",
    "The answer is 18 since 9 * 2 = 18.", "The answer is 18 (because 9 x 2 is 18)", "The answer is 18 [dollars].",
    "The answer is 18.00", "The answer is 18.0 dollars.", "The answer is +18.", "The answer is 18 USD",
    "The answer is USD 18", "The answer is $18.00 per day.", "답은 18달러입니다.", "答案是 18 美元。",
    "所以答案是18美元。", "最终答案：18", "答案为：$18$。", "綜上，答案為 18", "解答：18", "Ответ: 18 долларов.",
    "Итоговый ответ: 18", "Respuesta final: 18 dólares", "La respuesta correcta es 18.",
    "La réponse finale est 18 dollars.", "La réponse est donc 18.", "Die endgültige Antwort ist 18.",
    "Die Antwort lautet also 18 Dollar.", "Resposta final: 18", "A resposta final é 18.", "Risposta finale: 18",
    "Eindantwoord: 18", "Cevap: **18**", "Jawaban akhir: 18", "Đáp án: 18", "Câu trả lời là 18.",
    "Odpowiedź: 18 dolarów", "الإجابة هي 18", "الإجابة النهائية هي 18", "उत्तर: 18 डॉलर", "คำตอบ: 18",
    "Απάντηση: 18", "התשובה היא 18", "Svar: 18 dollar", "Vastaus: 18", "Válasz: 18", "Răspuns: 18",
]  # fmt: skip
THOUSANDS_WITH_BLANKS = [
    "The answer is 1 200.", "The answer is 1,200.", "The answer is $1 200", "Réponse : 1 200",
    "The answer is 1\xa0200 euros", "The answer is 1\u202f200.",
]  # fmt: skip
DECIMAL_COMMAS = [
    "Réponse : 2,5", "Die Antwort ist 2,5.", "Ответ: 2,5",
]  # fmt: skip
NO_ANSWER_OR_SEVERAL = [
    "Die Antwort ist nicht 18.", "La réponse n'est pas 18.", "答案不是18", "La respuesta no es 18.", "Ответ не 18",
    '{"answer": 18', '{"answer": "18', '{"answer": null} 18', "The total is 18 so far", "Tom has 18 apples.",
    "<answer>17\n18</answer>", "<answer></answer> 18", "The answer is 18 or 19", "The answer is 18 (20 with tax)",
    "The answer is 18 (or 6)",
]  # fmt: skip
SENTENCE_MARKS = [
    "The answer is 42!", "The answer is 42?", "The answer is 42?!", "Answer: 42!",
    "The answer is $42$!", "The final answer is 42! I hope it is correct.",
]  # fmt: skip
FACTORIALS = [
    "The answer is 42!", "The answer is $42!$", r"\boxed{42!}", "The answer is 42!.",
]  # fmt: skip
TWO_READINGS_OF_A_MARK = [
    "The answer is $5!$.", "The answer is 5!",
]  # fmt: skip
WORKED_ANSWERS = [
    "Answer: m+n = 200+56 = 256", "The answer is m+n = 200+56 = 256.", "Answer: $m+n = 200+56 = 256$",
    "Answer: 200+56 = 256", "The answer is 200 + 56 = 256", "Final answer: $m + n = 256$",
    r"The answer is $p+q+r = 100+100+56=\boxed{256}$", "Answer: 2^8 = 256", r"The answer is $16 \times 16 = 256$.",
]  # fmt: skip
AN_APPROXIMATION_IN_A_SECOND_BOX = [
    r"\boxed{\frac{1}{3}} \approx \boxed{0.333}", r"So \boxed{\frac13} $\approx$ \boxed{0.33}",
    r"$\boxed{\frac{1}{3}} \approx \boxed{0.3}$", r"\boxed{\frac{1}{3}} or approximately \boxed{0.33}",
    r"\boxed{\frac13} ≈ \boxed{0.33}", r"\boxed{\frac{1}{3}}, which is about \boxed{0.33}.",
    r"$x=\boxed{\frac13}$ (approximately \boxed{0.333})",
]  # fmt: skip
CONCLUSIONS_WITHOUT_A_CUE = [
    r"Therefore, \(y = 7\).", "Therefore, Tom walked 7 meters.", "Thus, the area is $7$.", "Hence $x = 7$.",
    "Therefore, the number of ways is 7.", "In conclusion, there are 7 ways.", "Therefore $a + b = 7$.",
    "Thus, the sum is equal to 7.", "The value is **7**.", "Therefore, we have $f(3) = 7$.",
    "So, the value of $x$ is **7**.", r"Thus, the slope is \(7\). The slope is \(7\).",
    "Therefore, the answer is\n\\[7\\]", "Hence, $$x = 7.$$", "Consequently, the probability is 7.",
    "Therefore, there are **7** apples.", "It follows that $x=7$.", "Finally, the total is $7$.",
    "Therefore:\n\\[ x = 7 \\]", "因此，$x=7$。", "Donc $x = 7$.",
    "Therefore, the correct value is $7$. This completes the proof.",
]  # fmt: skip
SENTENCES_THAT_CONCLUDE_NOTHING = [
    "So, $x = 7$ is not a solution.", "Therefore, $x$ cannot be $7$.", "Suppose $x = 7$.", "Let $x = 7$.",
    r"Therefore, $x \ne 7$.", "We get $x=7$ for the first root.", "Therefore, it is more than 7.",
    "Hence, there are at least $7$ of them.",
]  # fmt: skip
CHOICES = [
    "Choice: (B)", "Choice: B", "Option B is correct.", "Option B", "Option (B) is the best choice.",
    "The correct option is B.", "The correct choice is (B).", "<answer>B</answer>", '{"choice": "B"}',
    '{"answer": "B"}', '{"answer": "library"}', '```json\n{"choice": "B"}\n```', "__Answer:__ B", "**Answer:** B",
    r"\boxed{\textbf{B}}", r"\boxed{\mathrm{B}}", r"\boxed{\text{(B)}}", r"\boxed{\mathbf{B}}", r"$\boxed{B}$",
    r"\boxed{\text{B. library}}", "Answer: A is wrong, B is correct", "Answer: B is correct, A is wrong",
    "I would pick B — a safe choice.", "I think it's B", "I choose B.", "I'd go with B.",
    "The answer is B, because it is quiet.", "The answer is (B) library.", "The answer: B) library", "Answer – B",
    "So B is correct.", "B is the correct answer.", "The best answer is B.", "答案：B", "答案选B。", "故选B。", "选B",
    "Réponse : B", "Antwort: B", "The answer is b.", "The answer is (b)", "The answer is [B]", "The answer is B!",
    "Answer: **(B) library**", "### Answer\nB",
    "The answer is B. A is wrong because banks have money, C is incorrect.", "My choice: B", "Selected option: B",
    "Therefore, B.", "The answer is option B: library", "Answer: B (library)", "(B) is correct", 'Answer: "B"',
    "The answer is B不是 A", "The answer is B, not A.", "The answer is B rather than C",
    "The answer is B instead of A.",
]  # fmt: skip
CHOICES_THAT_ARE_NOT_MADE = [
    "The answer is not B.", "The answer is A or B", "B is wrong", "Option B is wrong.",
    "The answer is B. Wait, no, C.", "Option A is a bank. Option B is a library. Option C is a mall.",
    "The answer is none of them", "I would not pick B", "The answer is B? No, C.", "Answer: A and B",
    "The answer is (A) and (B)", "Answer: B is wrong, A is correct", "Bob thinks the answer is B.", "It can't be B",
    "<think>The answer is B", "The answer is neither A nor B.", "Choice: (C)", "Options: A, B, C",
    "A library is a place with books.",
]  # fmt: skip
SEVERAL_LETTERS = [
    "The answer is B, D.", "The answer is DB", "Answer: B and D", "The answer is (B) and (D).", r"\boxed{BD}",
    r"\boxed{B, D}", "Answer: B,D", "Answer: D, B", "<answer>B, D</answer>", '{"answer": ["B", "D"]}', "答案：BD",
    "The answer is B & D", "The answer is B、D",
]  # fmt: skip
OTHER_LETTERS_THAN_THE_GOLD_ANSWER_S = [
    "The answer is B.", "The answer is B, C.", "The answer is BCD", "Answer: B or D",
]  # fmt: skip
ONE_LETTER_ASKED_SEVERAL_GIVEN = [
    "The answer is B, D.",
]  # fmt: skip

KINDS = [
    ("taken back or denied, in words", "numeric", "5", TAKEN_BACK_OR_DENIED_IN_WORDS, NOT_RIGHT, None),
    ("taken back or denied, in boxes", "latex", "5", TAKEN_BACK_OR_DENIED_IN_BOXES, NOT_RIGHT, None),
    ("said with confidence", "numeric", "5", SAID_WITH_CONFIDENCE, RIGHT, None),
    ("unfinished thinking", "numeric", "12", UNFINISHED_THINKING, NOT_RIGHT, None),
    ("finished thinking", "numeric", "12", FINISHED_THINKING, RIGHT, None),
    ("cues of every kind", "numeric", "18", CUES_OF_EVERY_KIND, RIGHT, None),
    ("thousands with blanks", "numeric", "1200", THOUSANDS_WITH_BLANKS, RIGHT, None),
    ("decimal commas", "numeric", "2.5", DECIMAL_COMMAS, RIGHT, None),
    ("no answer, or several", "numeric", "18", NO_ANSWER_OR_SEVERAL, NOT_RIGHT, None),
    ("sentence marks", "latex", "42", SENTENCE_MARKS, RIGHT, None),
    ("factorials", "latex", "42!", FACTORIALS, RIGHT, None),
    ("two readings of a mark", "latex", "120", TWO_READINGS_OF_A_MARK, RIGHT, None),
    ("worked answers", "latex", "256", WORKED_ANSWERS, RIGHT, None),
    ("an approximation in a second box", "latex", r"\frac{1}{3}", AN_APPROXIMATION_IN_A_SECOND_BOX, RIGHT, None),
    ("conclusions without a cue", "latex", "7", CONCLUSIONS_WITHOUT_A_CUE, RIGHT, None),
    ("sentences that conclude nothing", "latex", "7", SENTENCES_THAT_CONCLUDE_NOTHING, NOT_RIGHT, None),
    ("choices", "choice", "library", CHOICES, RIGHT, PLACES),
    ("choices that are not made", "choice", "library", CHOICES_THAT_ARE_NOT_MADE, NOT_RIGHT, PLACES),
    ("several letters", "choice", "BD", SEVERAL_LETTERS, RIGHT, ITEMS),
    ("other letters than the gold answer's", "choice", "BD", OTHER_LETTERS_THAN_THE_GOLD_ANSWER_S, NOT_RIGHT, ITEMS),
    ("one letter asked, several given", "choice", "B", ONE_LETTER_ASKED_SEVERAL_GIVEN, OPEN, ITEMS),
]


@pytest.mark.parametrize(
    ("family", "gold", "text", "verdicts", "candidates"),
    [
        pytest.param(family, gold, text, verdicts, candidates, id=f"{kind}: {text!r}")
        for kind, family, gold, texts, verdicts, candidates in KINDS
        for text in texts
    ],
)
def test_verdicts(family, gold, text, verdicts, candidates):
    judged = judge(text, gold, family, candidates)
    assert judged.verdict in verdicts, judged
    assert judged.decided_by != "error"


DENIALS = [kind for kind in KINDS if kind[0].startswith(("taken back", "unfinished", "choices that"))]


@pytest.mark.parametrize(
    ("family", "gold", "text", "candidates"),
    [
        pytest.param(family, gold, text, candidates, id=f"{kind}: {text!r}")
        for kind, family, gold, texts, _, candidates in DENIALS
        for text in texts
        if text != "A library is a place with books."  # a bare text of a choice names its candidate
    ],
)
def test_a_pair_with_such_a_text_is_never_equal(family, gold, text, candidates):
    assert verify_pair(gold, text, family, candidates).verdict != "equal"


@pytest.mark.parametrize(
    ("family", "gold", "text", "candidates"),
    [
        pytest.param(family, gold, text, candidates, id=f"{kind}: {text!r}")
        for kind, family, gold, texts, verdicts, candidates in KINDS
        if verdicts is RIGHT
        for text in texts
    ],
)
def test_a_pair_with_a_right_text_is_equal(family, gold, text, candidates):
    assert verify_pair(gold, text, family, candidates).verdict == "equal"


@pytest.mark.parametrize("answer", ["5", "12", "-3", "0.5", "1,234", "7/2"])
@pytest.mark.parametrize(
    "behind",
    [
        " Wait, that is wrong.", " No, that's not right. It is 99.", " Oops, I made a mistake: it should be 99.",
        " Actually it is 99.", "\nHmm, let me recheck this.", " Scratch that.", " That is incorrect.",
        " On second thought, 99.", " Sorry, I meant 99.",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "cue", ["The answer is {}.", "#### {}", "Answer: {}.", r"\boxed{{{}}}.", "<answer>{}</answer>", "Réponse : {}."]
)
def test_every_cue_is_taken_back_by_every_retraction(cue, behind, answer):
    text = cue.format(answer) + behind
    for family in ("numeric", "latex"):
        assert judge(text, answer, family).verdict != "right", text


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("<think>", "</think>"), ("<thinking>", "</thinking>"),
        ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("◁think▷", "◁/think▷"), ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<seed:think>", "</seed:think>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"), ("<thought>", "</thought>"), ("<scratchpad>", "</scratchpad>"),
        ("<|channel>thought\n", "<channel|>"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cue", ["The answer is {}.", "#### {}", r"\boxed{{{}}}", "<answer>{}</answer>", "\nA: {}"])
def test_thinking_is_not_read_and_unfinished_thinking_is_no_answer(first, last, cue):
    for family in ("numeric", "latex"):
        assert judge(first + cue.format(5), "5", family).verdict == "none"
        assert judge(first + cue.format(5) + last, "5", family).verdict == "none"
        assert judge(first + cue.format(4) + last + "\n" + cue.format(5), "5", family).verdict == "right"
        assert judge(first + cue.format(5) + last + "\n" + cue.format(4), "5", family).verdict == "wrong"


@pytest.mark.parametrize(
    "token",
    [
        "<|im_end|>", "<|eot_id|>", "</s>", "<|endoftext|>", "<end_of_turn>", "<|end_of_text|>", "<eos>", "<|return|>",
        "<｜end▁of▁sentence｜>", "<|eom_id|>", "[EOS]", "<|END_OF_TURN_TOKEN|>", "<|im_end|>\n<|im_start|>user\n#### 9",
    ],
)  # fmt: skip
@pytest.mark.parametrize("cue", ["The answer is {}", "The answer is {}.", "#### {}", r"\boxed{{{}}}", "{}"])
def test_a_token_of_the_template_ends_the_answer(token, cue):
    text = cue.format(42) + token
    for family in ("numeric", "latex"):
        assert verify_pair("42", text, family).verdict == "equal", text
        if cue != "{}":
            assert judge(text, "42", family).verdict == "right", text
