"""``python -m fastadasp.testbed FOLDER``: the open-vocabulary test bed as a model folder."""

from __future__ import annotations

import argparse
import sys

from fastadasp.errors import FastAdaSPError, ModelError
from fastadasp.testbed.build import DECODER, ENCODER, build


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m fastadasp.testbed", description=__doc__)
    parser.add_argument("folder", help="to be made, or empty")
    parser.add_argument("--encoder", default=ENCODER, help=f"hub id or folder of a Whisper checkpoint ({ENCODER})")
    parser.add_argument("--decoder", default=DECODER, help=f"hub id or folder of the language model ({DECODER})")
    parser.add_argument("--adapter", help="file with projector and LoRA, made by tools/testbed; none is packaged")
    asked = parser.parse_args(arguments)
    try:
        if not asked.adapter:
            raise ModelError("this release has no trained adapter of the test bed; name a file with --adapter")
        folder = build(asked.folder, encoder=asked.encoder, decoder=asked.decoder, adapter=asked.adapter)
    except FastAdaSPError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"model: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
