"""The quickstart shows what it says: nothing held out occurs in training, a short run of it halves
the held-out perplexity and answers most prompts to the letter, and the same run on shuffled answers
does neither, so that it is the content of the prompts that was learned."""
import json
import os

import nibble

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = os.path.join(ROOT, "configs", "quickstart")
STEPS = 107  # half of the quickstart
MODEL_BYTES = 4 << 20


def rows(name):
    """Pairs of prompt and answer."""
    with open(os.path.join(FOLDER, name)) as f:
        turns = [json.loads(line)["messages"] for line in f]
    return [(prompt["content"], answer["content"]) for prompt, answer in turns]


def write_rows(path, pairs):
    with open(path, "w") as f:
        for prompt, answer in pairs:
            f.write(json.dumps({"messages": [{"role": "user", "content": prompt},
                                             {"role": "assistant", "content": answer}]}) + "\n")


class Quickstart(nibble.Case):
    def test_base_is_small(self):
        """Under 4 MB in the repository."""
        model = os.path.join(FOLDER, "model")
        total = sum(os.path.getsize(os.path.join(model, f)) for f in os.listdir(model))
        self.assertLess(total, MODEL_BYTES)

    def test_nothing_held_out_is_in_training(self):
        train, held_out = rows("train.jsonl"), rows("heldout.jsonl")
        text = "\n".join("%s\n%s" % pair for pair in train)
        self.assertGreaterEqual(len(held_out), 200)
        for prompt, answer in held_out:
            self.assertNotIn(prompt, text)
            self.assertNotIn(answer, text)
        self.assertEqual(len({a for _, a in train + held_out}), len(train) + len(held_out))

    def fine_tune(self, pairs):
        """A short run on these rows: its summary."""
        write_rows(self.path("rows.jsonl"), pairs)
        r = nibble.run(ROOT, "train", "--config", "configs/quickstart.yaml",
                       "datasets.0.path=" + self.path("rows.jsonl"),
                       "output_dir=" + self.path("out"), "max_steps=%d" % STEPS)
        self.assertEqual(r.code, nibble.OK, r)
        return nibble.summary(self.path("out"))

    def assert_answers(self, samples, least, most):
        exact = sum(s["answer"].strip() == s["expected"].strip() for s in samples)
        self.assertTrue(least * len(samples) <= exact <= most * len(samples),
                        "%d of %d exact" % (exact, len(samples)))

    def test_it_learns(self):
        s = self.fine_tune(rows("train.jsonl"))
        before, after = (s[k]["perplexity"] for k in ("held_out_before", "held_out_after"))
        self.assertLess(after, before / 2)
        self.assert_answers(s["samples_before"], 0, 0.2)
        self.assert_answers(s["samples_after"], 0.5, 1)

    def test_shuffled_answers_teach_nothing(self):
        prompts, answers = zip(*rows("train.jsonl"))
        turn = len(answers) // 3 + 1  # not a multiple of the number of tasks
        s = self.fine_tune(list(zip(prompts, answers[turn:] + answers[:turn])))
        before, after = (s[k]["perplexity"] for k in ("held_out_before", "held_out_after"))
        self.assertGreater(after, before * 0.95)
        self.assert_answers(s["samples_after"], 0, 0.1)


if __name__ == "__main__":
    nibble.main()
