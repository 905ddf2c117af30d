"""Asks bitwuzla about one SMT-LIB 2 file: prints what the file's commands print, `unknown` where the time is over."""

import sys

from bitwuzla import Options, Option, Parser, TermManager

path, seconds = sys.argv[1], int(sys.argv[2])
options = Options()
options.set(Option.PRODUCE_MODELS, True)
options.set(Option.TIME_LIMIT_PER, seconds * 1000)
Parser(TermManager(), options).parse(path, False)
