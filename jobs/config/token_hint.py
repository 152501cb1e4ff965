"""How to get back the token of a cluster whose file of it is lost or damaged."""

from pathlib import Path

from sumgrad.jobs.config.directories import local_cluster_directory


def token_hint(file: Path) -> str:
    """What to do, in a line.

    Args:
        file: That should hold the token.
    """
    if file == local_cluster_directory() / "token":
        # A new one is made where there is no file.
        return f"'sumgrad cluster down', 'rm -f {file}' and 'sumgrad cluster up' make another one"
    return f"whoever set the cluster up has its token, which belongs into {file}"
