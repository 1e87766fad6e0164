"""`train tokenize --chat`, from outside: the fixtures' renderings, refusals as objects, exit codes; and a
run that is trained with a template of its own, then resumed from its prepared rows."""
import json
import os
import unittest

import nibble

TEMPLATES = os.path.join(nibble.FIXTURES, "templates")
GOLDEN = os.path.join(nibble.FIXTURES, "expectations", "golden-templates", "chat_templates.json")
FROZEN = {"SOURCE_DATE_EPOCH": "1752148800"}
PLAIN = ("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
         "{% if add_generation_prompt %}assistant: {% endif %}")


def lines(values):
    return "".join(json.dumps(v) + "\n" for v in values)


class Chats(nibble.Case):
    def tokenize(self, *options, stdin):
        r = nibble.run(self.dir, "tokenize", "--chat", *options, env=FROZEN, stdin=stdin)
        return r, [json.loads(line) for line in r.out.splitlines()]

    @unittest.skipUnless(os.path.exists(GOLDEN), "no fixtures")
    def test_golden_renderings(self):
        with open(GOLDEN) as f:
            known = json.load(f)
        seen = 0
        for name in sorted(os.listdir(TEMPLATES)):
            for prompt in (False, True):
                rows = [r for r in known["rows"] if r["template"] == "llama.cpp/" + name
                        and r["add_generation_prompt"] == prompt]
                if not rows:
                    continue
                stdin = lines({"messages": known["conversations"][r["conv"]],
                               "tools": known["tools"] if r["conv"] == "tools" else None} for r in rows)
                r, got = self.tokenize("--text", "--bos", "<s>", "--eos", "</s>", "--template",
                                       os.path.join(TEMPLATES, name), *["--add-generation-prompt"] * prompt,
                                       stdin=stdin)
                want = [row["output"] if row.get("output") is not None else {"error": row["error"]} for row in rows]
                self.assertEqual(got, want, name)
                self.assertEqual(r.code, 3 if any("error" in row for row in rows) else 0, r)
                seen += len(rows)
        self.assertEqual(seen, 192)

    def test_ids_labels_and_refusals(self):
        nibble.make_model(self.path("base"), num_hidden_layers=1)
        nibble.write(self.path("own.jinja"), PLAIN)
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        r, got = self.tokenize("--model", "base", "--template", "own.jinja",
                               stdin=lines([chat, {"messages": []}, {"messages": chat, "tools": []}]))
        self.assertEqual(r.code, 3, r)
        self.assertEqual(sorted(got[0]), ["ids", "labels"])
        self.assertEqual(len(got[0]["ids"]), len(got[0]["labels"]))
        self.assertTrue(0 < sum(label >= 0 for label in got[0]["labels"]) < len(got[0]["labels"]))
        self.assertIn("no message", got[1]["error"])
        self.assertEqual(got[2], got[0])
        for options, word in ((["--text"], "--template"), (["--decode", "--model", "base"], "--decode"),
                              (["--text", "--template", "absent.jinja"], "absent.jinja")):
            r, _ = self.tokenize(*options, stdin="")
            self.assertEqual(r.code, 2, r)
            self.assertIn(word, r.err)
        nibble.write(self.path("bad.jinja"), "{{ x\n| nosuch }}")
        r, _ = self.tokenize("--text", "--template", "bad.jinja", stdin="")
        self.assertEqual(r.code, 4, r)
        self.assertIn("bad.jinja:2:3", r.err)

    def test_training_with_a_template_of_ones_own(self):
        nibble.make_model(self.path("base"), num_hidden_layers=1)
        chats = [{"messages": [{"role": "user", "content": "say %d" % i},
                               {"role": "assistant", "content": "well, %d" % i}]} for i in range(12)]
        nibble.write(self.path("rows.jsonl"), lines(chats))
        c = nibble.config(max_steps=2, sequence_len=96, chat_template_jinja=PLAIN, dataset_prepared_path="prepared",
                          datasets=[{"path": "rows.jsonl", "type": "chat_template"}])
        nibble.write_config(self.path("config.yaml"), c)
        r = nibble.run(self.dir, "--config", "config.yaml")
        self.assertEqual(r.code, 0, r)
        first = os.listdir(self.path("prepared"))
        c["chat_template_jinja"] = PLAIN.replace("assistant: ", "answer: ")
        c["output_dir"] = "out2"
        nibble.write_config(self.path("config.yaml"), c)
        r = nibble.run(self.dir, "--config", "config.yaml")
        self.assertEqual(r.code, 0, r)
        self.assertGreater(len(os.listdir(self.path("prepared"))), len(first))  # other rows


if __name__ == "__main__":
    nibble.main()
