"""2,000 strategy names whose clusters are known: ten concepts, each ten verbs by twenty objects, all names different.

Verbs and objects of a concept mean about the same; verbs may be shared between concepts. Nothing here comes from a
model's reply.
"""

from itertools import product

CONCEPTS = {
    "recall": (
        "recall remember retrieve recollect fetch access recover summon reproduce rehearse",
        """
        fact, known fact, stored knowledge, memory, memorized fact, factual knowledge, date from memory, memorized
        information, name from memory, learned fact, remembered detail, stored fact, past knowledge, memorized
        detail, knowledge from memory, fact from memory, remembered name, known detail, stored memory, learned
        knowledge
        """,
    ),
    "verification": (
        "verify check recheck double_check validate confirm review audit proofread test",
        """
        answer, result, own answer, final answer, correctness of answer, solution, answer again, answer consistency,
        earlier answer, given answer, proposed answer, own result, own solution, answer correctness, tentative
        answer, candidate answer, previous answer, correctness of result, correctness of solution, answer once more
        """,
    ),
    "decomposition": (
        "split break_down divide decompose partition separate segment dissect cut chop",
        """
        question, question into parts, problem into subproblems, task into subquestions, problem, task, question
        into pieces, query into steps, problem into parts, task into steps, question into steps, problem into
        pieces, query into parts, task into pieces, problem into steps, query, task into parts, question into
        subquestions, problem into subquestions, task into subtasks
        """,
    ),
    "comparison": (
        "compare contrast weigh juxtapose rank match oppose balance distinguish differentiate",
        """
        two candidates, options, alternatives, candidates, two options, several candidates, both alternatives,
        options side by side, two alternatives, several options, both options, both candidates, all options, all
        candidates, different options, different candidates, competing options, competing candidates, possible
        options, rival candidates
        """,
    ),
    "summary": (
        "summarize recap sum_up wrap_up outline condense abridge digest shorten compress",
        """
        findings, summary, conclusion, key points, main findings, main points, everything so far, reasoning briefly,
        points in brief, findings in brief, discussion, text briefly, points so far, findings so far, overall
        summary, whole discussion, whole text, main ideas, key ideas, key findings
        """,
    ),
    "causality": (
        "explain infer trace identify find establish analyze derive locate determine",
        """
        cause and effect, cause, causal link, causes of event, effect from cause, causal chain, causal mechanism,
        reason it happened, root cause, causal relation, underlying cause, causes, causal path, cause of effect,
        causal connection, probable cause, causes and effects, causal factor, cause of event, main cause
        """,
    ),
    "analogy": (
        "draw use make apply build form offer construct create propose",
        """
        analogy, analogy to similar case, metaphor, parallel analogy, analogical mapping, analogous example, similar
        case analogy, metaphorical analogy, analogy to example, analogous case, helpful analogy, analogical
        inference, analogy from experience, simple analogy, apt analogy, metaphor or analogy, analogical transfer,
        close analogy, everyday analogy, analogical argument
        """,
    ),
    "translation": (
        "translate render convert transliterate interpret transcribe gloss paraphrase read decode",
        """
        foreign word, french term, latin name to english, word from german, phrase into english, name from spanish,
        foreign phrase, greek word, foreign term, french phrase, german phrase, spanish word, latin word, latin
        phrase, russian word, french word into english, foreign language, italian word, spanish phrase, foreign name
        """,
    ),
    "arithmetic": (
        "compute calculate add sum work_out multiply evaluate total count tally",
        """
        numbers, arithmetic sum, product of numbers, total number, numerical value, arithmetic result, percentage,
        difference of numbers, sum of numbers, numerical result, numeric total, arithmetic, two numbers, numerical
        sum, quotient of numbers, numeric value, arithmetic expression, number, numeric result, several numbers
        """,
    ),
    "doubt": (
        "express admit voice acknowledge show convey state signal reveal declare",
        """
        uncertainty, doubt, lack of confidence, being unsure, low certainty, hesitation and doubt, not being sure,
        uncertain belief, own uncertainty, low confidence, being uncertain, own doubt, lack of certainty, some
        doubt, doubts, strong doubt, being doubtful, remaining doubt, remaining uncertainty, some uncertainty
        """,
    ),
}


def planted_names():
    """Name -> number of its concept."""
    found = {}
    for number, (verbs, objects) in enumerate(CONCEPTS.values()):
        things = ["_".join(thing.split()) for thing in objects.split(",")]
        found |= {f"{verb}_{thing}": number for verb, thing in product(verbs.split(), things)}
    return found
