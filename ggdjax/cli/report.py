"""`ggdjax report`: one self-contained HTML page of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ggdjax._errors import GgdjaxError
from ggdjax._whole import whole_file


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page of a run: figures, tables that sort and filter, every picture, provenance.

    The page holds everything in itself: it opens without a network, on a phone, and prints.

    Examples:
        ggdjax report runs/demo
        ggdjax report runs/r20 --out r20.html
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder that `ggdjax quantize --out` wrote."""
    out: Path | None = None
    """File to write; RUN/report.html by default."""

    def run(self) -> None:
        """Do the job.

        Raises:
            GgdjaxError: RUN is no run folder, or the page cannot be written.
        """
        from rich.console import Console

        from ggdjax.report import html_page

        if self.out is not None and (self.out.is_dir() or not os.access(self.out.absolute().parent, os.W_OK)):
            raise GgdjaxError(f"`--out` {self.out} cannot be written: name a file, in a folder that is there")
        # The first page of a run compares every scheme, which takes about a minute.
        with Console().status("Reading the run") as status:
            page = html_page(self.run_folder, status.update)
        out = self.run_folder / "report.html" if self.out is None else self.out
        with whole_file(out, "--out") as part:
            part.write_text(page, encoding="utf-8")
        print(f"Written to {out} ({len(page) / 1e6:.1f} MB)")
