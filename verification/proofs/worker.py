"""Answers queries, one after the other, by z3 and by cvc5 inside this process: starting a solver anew for each query would
take longer than most answers.

A line of standard input is `SOLVER<tab>MILLISECONDS<tab>FILE`; the file holds one query in SMT-LIB 2. The answer is a line
`sat`, `unsat` or `unknown`, a tab, and the seconds that it took. The first line that is printed tells the versions.
"""

import sys
import time

import cvc5
import z3


def by_z3(path, milliseconds):
    solver = z3.SolverFor("ALL", ctx=z3.Context())
    solver.set("timeout", milliseconds)
    solver.from_file(path)
    return str(solver.check())


def by_cvc5(path, milliseconds):
    solver = cvc5.Solver(cvc5.TermManager())
    solver.setOption("tlimit-per", str(milliseconds))
    # Enumerative instantiation: without it cvc5 gives up on most of these.
    solver.setOption("enum-inst", "true")
    parser = cvc5.InputParser(solver)
    parser.setFileInput(cvc5.InputLanguage.SMT_LIB_2_6, path)
    symbols = parser.getSymbolManager()
    answer = "unknown"
    while True:
        command = parser.nextCommand()
        if command.isNull():
            return answer
        told = command.invoke(solver, symbols).strip()
        if told.startswith(("sat", "unsat", "unknown")):
            answer = told.split()[0]
        elif told:
            raise RuntimeError(told)


SOLVERS = {"z3": by_z3, "cvc5": by_cvc5}


def main():
    print(f"z3 {z3.get_version_string()}\tcvc5 {cvc5.__version__}", flush=True)
    for line in sys.stdin:
        name, milliseconds, path = line.rstrip("\n").split("\t")
        began = time.monotonic()
        answer = SOLVERS[name](path, int(milliseconds))
        print(f"{answer}\t{time.monotonic() - began:.4f}", flush=True)


if __name__ == "__main__":
    main()
