"""sbatch, srun, squeue ... of a stand-in: client.py DIRECTORY COMMAND ARGUMENTS

It is started with -I -S and imports little, so that it runs within a few hundredths of a second.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from standin.formats import ELSEWHERE, Refused


def main() -> int:
    directory, command, *args = sys.argv[1:]
    try:
        if command == "sbatch":
            from standin.sbatch import main as run
        elif command == "srun":
            from standin.srun import main as run
        elif command in ("scontrol", "scancel"):
            from standin import control

            run = getattr(control, command)
        elif command == "squeue":
            from standin.squeue import main as run
        elif command == "sinfo":
            from standin.sinfo import main as run
        elif command == "sacct":
            from standin.sacct import main as run
        else:
            raise Refused(f"the stand-in has no {command}{ELSEWHERE}", 2)
        if args in (["--version"], ["-V"]):
            print("slurm stand-in")
            return 0
        return run(directory, args) or 0
    except Refused as e:
        sys.stdout.flush()
        for line in str(e).splitlines():
            bare = command == "scontrol" or line.startswith(
                ("slurm_load_jobs", "Unknown job signal", "Slurm accounting")
            )
            print(line if bare and e.status != 2 else f"{command}: {line}", file=sys.stderr)
        return e.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
