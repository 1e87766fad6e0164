#!/usr/bin/env python3
"""Makes tests/golden/chat.json: what the real libraries make of conversations.

    data_goldens.py SHARED AXOLOTL SMOLLM2 > tests/golden/chat.json

SHARED: the folder with fixtures/. AXOLOTL: a folder with NAME.jinja for each built-in template (from
src/axolotl/utils/chat_templates/templates). SMOLLM2: the folder that tools/smollm2_to_hf.py makes.
Needs transformers, tokenizers and jinja2.

"texts": renderings by jinja2 with transformers' settings, BOS <s>, EOS </s>.
"rows": ids by transformers' apply_chat_template, labels by Axolotl's rule for type: chat_template,
written anew here: a turn's content is where the tokens differ from those of the same conversation
with another text in that turn; the first EOS within three tokens after it is learned too.
"""
import json, os, sys
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

shared, axolotl, smollm2 = sys.argv[1:4]
fixtures = os.path.join(shared, "fixtures")

BUILT_IN = ["chatml", "llama3", "qwen_25", "qwen3", "mistral_v1", "mistral_v2v3", "mistral_v3_tekken",
            "alpaca", "gemma", "phi_3", "phi_35"]
OWN = {n: os.path.join(fixtures, "templates", n + ".jinja") for n in [
    "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct", "google-gemma-2-2b-it", "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407"]}

def u(t): return {"role": "user", "content": t}
def a(t, **more): return dict({"role": "assistant", "content": t}, **more)
def s(t): return {"role": "system", "content": t}

CONVERSATIONS = [
    [u("Hi")],
    [u("How many are 3 + 4?"), a("7.")],
    [s("You are a poet."), u("A line, please."), a("The moon is a cold coin."), u("Another."), a("It buys no bread.")],
    [s(" Two spaces \n"), u("\n\n lines before and after \n"), a("  indented\n\tcode\n\n")],
    [u("Größe, 漢字, 😀, e\u0301"), a("½ \u00a0ok\u3000"), u("\u2028x\x1c"), a("fin\n")],
    [u("think"), a("<think>\nhm\n</think>\n\nyes"), u("again"), a("<think>\nhmm, 2\n</think>\n\nno")],
    [u("think"), a("plain"), u("more"), a("<think>\n</think>last")],
    [u("separate"), a("answer", reasoning_content="\nbecause\n"), u("ok"), a("\nanother", reasoning_content="")],
    [u("double"), u("user"), a("x")],
    [a("the assistant begins"), u("y")],
    [u("x"), a(""), u(""), a("z")],
    [s(""), u("empty system"), a("ok")],
    [u("x"), s("in the middle"), a("z")],
    [u("call"), a("<think>one</think>\n\n<think>two</think>three"), u("<tool_response>3</tool_response>"), a("It is 3.")],
    [s("only a system message")],
    [u("brackets [INST] x [/INST] and ### Response: and <<SYS>>"), a("{{ x }} {% y %} 'q' \\n")],
]

def render(template, messages, prompt, bos="<s>", eos="</s>", last=None):
    """None when the template refuses. last: index of the conversation's last message, of which these are
    the first; Axolotl's qwen3 asks for it."""
    try:
        return _compile_jinja_template(template).render(
            messages=messages, add_generation_prompt=prompt, bos_token=bos, eos_token=eos,
            real_last_index=last, strftime_now=lambda f: "10 Jul 2025")
    except Exception:
        return None

def load(folder):
    c = json.load(open(os.path.join(folder, "tokenizer_config.json")))
    name = lambda k: c[k]["content"] if isinstance(c.get(k), dict) else c.get(k)
    t = PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, "tokenizer.json"))
    for k in ("bos_token", "eos_token"):
        if name(k): setattr(t, k, name(k))
    return t, c.get("chat_template")

def ids_of(t, template, messages, last=None):
    text = render(template, messages, False, t.bos_token or "", t.eos_token or "", last)
    return t(text, add_special_tokens=False)["input_ids"]

def labels_of(t, template, messages, trained, ends, ids):
    """trained: roles, or None for all; ends: turn, all, last, none. None where the rule has no meaning,
    since the conversation up to a turn is not how the whole one begins."""
    labels, last = [-100] * len(ids), None
    for i, m in enumerate(messages):
        learn = trained is None or m["role"] in trained
        if not learn and ends != "all": continue
        full = ids_of(t, template, messages[: i + 1], len(messages) - 1)
        dummy = ids_of(t, template, messages[:i] + [{"role": m["role"], "content": "[[dummy_message]]"}], len(messages) - 1)
        if full[:-1] != ids[: len(full) - 1]: return None
        n = min(len(full), len(dummy))
        start = next((k for k in range(n) if full[k] != dummy[k]), None)
        end = next((len(full) - k for k in range(n) if full[len(full) - 1 - k] != dummy[len(dummy) - 1 - k]), None)
        if start is None or end is None or end <= start: start = end = -1
        if learn and start >= 0: labels[start:end] = ids[start:end]
        k = next((k for k in range(max(end, 0), len(ids)) if ids[k] == t.eos_token_id), -1)
        if end >= 0 and k >= 0 and k - end <= 3:
            last = k
            if ends == "all" or (ends == "turn" and learn): labels[k] = ids[k]
    if ends == "last" and last is not None: labels[last] = ids[last]
    return labels

out = {"conversations": CONVERSATIONS, "texts": [], "rows": []}
templates = {n: open(os.path.join(axolotl, n + ".jinja")).read() for n in BUILT_IN}
own = {n: open(p).read() for n, p in OWN.items()}
for n, t in list(templates.items()) + list(own.items()):
    for i, c in enumerate(CONVERSATIONS):
        for prompt in (False, True):
            if prompt and n in ("qwen3",): continue  # Axolotl opens a <think> block there; we follow the model's own
            if prompt and i > 2: continue
            out["texts"].append({"template": n, "own": n in own, "conversation": i, "prompt": prompt, "text": render(t, c, prompt)})

tokenizers = {n: load(os.path.join(fixtures, "tokenizers", n)) for n in ("llama3_2", "qwen2_5", "mistral7b_v0.1")}
tokenizers["smollm2"] = load(smollm2)
CASES = [("llama3_2", "llama3"), ("llama3_2", None), ("qwen2_5", "chatml"), ("qwen2_5", None), ("qwen2_5", "qwen3"),
         ("mistral7b_v0.1", "mistral_v1"), ("mistral7b_v0.1", "alpaca"), ("smollm2", None)]
RULES = [(["assistant"], "turn"), (["assistant"], "last"), (["assistant"], "none"), (["assistant"], "all"), (None, "turn")]
for name, template in CASES:
    t, mine = tokenizers[name]
    text = templates[template] if template else mine
    for i, c in enumerate(CONVERSATIONS):
        if render(text, c, False) is None: continue
        ids = ids_of(t, text, c)
        for trained, ends in RULES if i in (2, 4) else RULES[:1]:
            # There "[INST] [[dummy" makes a token of the space before a text: the rule sees a difference in
            # what stands before a question, and an answer in nothing but that space.
            if template == "mistral_v1" and (trained is None or any(m["content"] == "" for m in c)): continue
            out["rows"].append({"tokenizer": name, "template": template, "conversation": i,
                                "trained": "all" if trained is None else "assistant", "ends": ends,
                                "ids": ids, "labels": labels_of(t, text, c, trained, ends, ids)})
print(json.dumps(out, ensure_ascii=True))
