"""Chat templates against jinja2 in Hugging Face's environment: generated snippets and the fixtures' templates,
texts and errors; which tokens of a template with {% generation %} are learned against transformers; and how
fast it renders."""
import copy
import json
import os
import random
import re
import signal
import subprocess
import time
import warnings
from datetime import datetime

import ours
from templates_random import DATA, Generator

SNIPPETS = int(os.environ.get("NIBBLE_SNIPPETS", "10000"))
RATIO = 20  # of the times to render
PATIENCE = 2  # seconds for a snippet
# What Python prints with an address in it has no text to compare.
ADDRESS = re.compile(r"0x[0-9a-f]{6,}|<(generator|function|class|bound|built-in|Macro|LoopContext|list_rev|reversed|"
                     r"dict_rev|range_it|<|_)")


def program():
    return os.path.join(os.path.dirname(os.environ["NIBBLE_FORMATS"]), "interop_templates")


def compiled(template):
    from transformers.utils import chat_template_utils
    return chat_template_utils._compile_jinja_template(template)


class TookLong(BaseException):
    """jinja2 has no cap on work."""


def give_up(*_):
    raise TookLong


class Frozen(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime(2025, 7, 10, 12, 0, 0)


def theirs(template, settings, data, prompt=False):
    from transformers.utils import chat_template_utils
    chat_template_utils.datetime = Frozen
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, give_up)
    data = copy.deepcopy(data)  # jinja2 can change lists: `l | indent` extends l
    try:
        t = compiled(template)
    except Exception as e:
        return {"compile": str(e)}
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        return {"text": t.render(add_generation_prompt=prompt, **settings, **data)}
    except TookLong:
        return {"slow": PATIENCE}
    except SyntaxError as e:
        return {"compile": str(e)}
    except Exception as e:
        return {"error": "%s: %s" % (type(e).__name__, e)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def ask(lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    p = subprocess.run([program()], input=text.encode(), stdout=subprocess.PIPE, timeout=1200)
    out = p.stdout.decode().splitlines()
    if p.returncode or len(out) != len(lines):
        raise ours.Differs("the program ended with %d at template %r" % (p.returncode, lines[len(out)]["template"]))
    return [json.loads(line) for line in out]


def judge(want, got):
    """slow, same, error, refused (not supported, said so), quirk, or differs."""
    if "slow" in want:
        return "slow"
    if "text" in want and want == got:
        return "same"
    if got.get("error", "").startswith("NotImplementedError") or "compile" in got:
        return "refused"
    if "text" in want and ADDRESS.search(want["text"]):
        return "address"
    if "error" in want and "error" in got:
        return "error"
    return "differs"


def snippets(place):
    templates = []
    for i in range(SNIPPETS):
        g = Generator(i)
        templates.append(g.stmts(3, g.r.randrange(1, 5)))
    settings = {"bos_token": "<s>"}
    answers = ask([{"template": t, "settings": settings, "data": DATA} for t in templates])
    counts = {}
    for template, got in zip(templates, answers):
        want = theirs(template, settings, DATA)
        verdict = judge(want, got)
        if verdict == "refused" and "compile" in want:
            verdict = "error"
        if verdict == "differs":
            raise ours.Differs("%r: %r, jinja2: %r" % (template, got, want))
        counts[verdict] = counts.get(verdict, 0) + 1
    if counts.get("refused", 0) > SNIPPETS // 50 or counts["same"] < SNIPPETS // 3:
        raise ours.Differs("too few could be compared: %s" % counts)
    return ", ".join("%d %s" % (n, name) for name, n in sorted(counts.items()))


def golden(place):
    fixtures = os.environ["NIBBLE_FIXTURES"]
    folder = os.path.join(fixtures, "templates")
    with open(os.path.join(fixtures, "expectations", "golden-templates", "chat_templates.json")) as f:
        known = json.load(f)
    lines = []
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".jinja"):
            continue
        with open(os.path.join(folder, name)) as f:
            template = f.read()
        for conversation in known["conversations"].values():
            for tools in (None, known["tools"]):
                for prompt in (False, True):
                    data = {"messages": conversation, "tools": tools, "documents": None}
                    lines.append({"template": template, "settings": {"bos_token": "<s>", "eos_token": "</s>"},
                                  "data": data, "prompt": prompt})
    for line, got in zip(lines, ask(lines)):
        want = theirs(line["template"], line["settings"], line["data"], line["prompt"])
        if want != got:
            raise ours.Differs("%r: %r, jinja2: %r" % (line["template"][:60], got, want))
    return "%d renderings" % len(lines)


def chats(count):
    r = random.Random(1)
    out = []
    for i in range(count):
        m = [{"role": "system", "content": "You are helpful."}] if i % 2 else []
        for _ in range(r.randrange(1, 5)):
            m.append({"role": "user", "content": "x" * r.randrange(10, 400)})
            m.append({"role": "assistant", "content": "some words " * r.randrange(1, 60)})
        out.append({"messages": m, "tools": None, "documents": None})
    return out


def speed(place):
    folder, rows, ratios = os.path.join(os.environ["NIBBLE_FIXTURES"], "templates"), chats(2000), []
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".jinja"):
            continue
        path = os.path.join(folder, name)
        with open(path) as f:
            t = compiled(f.read())
        try:
            start = time.process_time()
            for row in rows:
                t.render(bos_token="<s>", eos_token="</s>", add_generation_prompt=False, **row)
            other = (time.process_time() - start) / len(rows) * 1e6
        except Exception:  # a template that wants tools
            continue
        p = subprocess.run([program(), path, "10"], input=text, stdout=subprocess.PIPE, check=True)
        both, load = map(float, p.stdout.split())
        ratios.append(other / (both - load))
    ratios.sort()
    middle = ratios[len(ratios) // 2]
    words = "%.0f to %.0f times as fast, %.0f in the middle" % (ratios[0], ratios[-1], middle)
    if middle < RATIO:
        raise ours.Differs(words)
    return words


GENERATION = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
              "{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
              "{% endfor %}")


def generation(place):
    """The labels are what return_assistant_tokens_mask says."""
    from transformers import PreTrainedTokenizerFast
    folder = os.path.join(os.environ["NIBBLE_FIXTURES"], "tokenizers", "qwen2_5")
    t = PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, "tokenizer.json"))
    path = place.path("generation.jinja")
    with open(path, "w") as f:
        f.write(GENERATION)
    rows = [row["messages"] for row in chats(200)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    p = subprocess.run([os.environ["NIBBLE_TRAIN"], "tokenize", "--chat", "--model", folder, "--template", path],
                       input=text.encode(), stdout=subprocess.PIPE, check=True)
    for row, line in zip(rows, p.stdout.decode().splitlines()):
        got = json.loads(line)
        want = t.apply_chat_template(row, chat_template=GENERATION, return_dict=True, return_assistant_tokens_mask=True)
        labels = [i if m else -100 for i, m in zip(want["input_ids"], want["assistant_masks"])]
        if got["ids"] != want["input_ids"] or got["labels"] != labels:
            raise ours.Differs("%r" % row)
    return "%d rows" % len(rows)


TABLE = [("templates: jinja2's texts", golden), ("templates: generated", snippets),
         ("templates: generation's mask", generation), ("templates: speed", speed)]
