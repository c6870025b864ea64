"""_core.build_model() beside the SDK's construct_type(), for every class of the installed openai.

python tests/fuzz/diff_models.py [--seed N] [--seconds N] [--word PART_OF_A_CLASS_NAME]
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import modelkit
import openai


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--word", default="")
    args = parser.parse_args()
    models = [cls for cls in modelkit.all_models() if args.word in f"{cls.__module__}.{cls}"]
    print(f"seed {args.seed}, openai {openai.__version__}, {len(models)} classes")
    r = random.Random(args.seed)
    maker = modelkit.Maker(r)
    deadline, count = time.monotonic() + args.seconds, 0
    while time.monotonic() < deadline:
        cls = r.choice(models)
        document = maker.value(cls)
        for _ in range(r.choice((0, 0, 1, 1, 2, 5))):
            document = maker.broken(document)
        modelkit.check(cls, modelkit.text_of(r, document), dump=r.random() < 0.2)
        count += 1
    print(f"{count} documents: the same")


if __name__ == "__main__":
    main()
