"""`python -m grader.audit.trainers`: audits other people's trainers, and makes a page of it.

cases        the list of trainers (cases.toml), and what makes an entry of it valid
fetching     clones a repository at its commit, and makes a virtual environment
running      runs the audit of a case as a process of its own, within limits
page         docs/trainers.md, from the kept results (results.json)
chaos        the same mistakes under ckpt-chaos and under an audit
scripts/     training scripts written for this, after each trainer's documentation
"""
