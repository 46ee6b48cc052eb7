"""A file system that a test may break."""

import subprocess


def remount(share, how):
    """With another option of mount(8): ro, rw."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(share)], check=True)
