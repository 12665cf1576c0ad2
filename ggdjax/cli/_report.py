"""`ggdjax report`: one self-contained HTML page of a run, or of several side by side."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ggdjax._atomic import atomic_write
from ggdjax._errors import GgdjaxError


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page of a run: figures, tables that sort and filter, every plot, provenance.

    Of several runs: what each was asked for and came to, side by side, with a paired test (McNemar) for the images that
    two of them share. The page holds everything in itself: it opens without a network, on a phone, and prints.

    For example:
        ggdjax report runs/demo
        ggdjax report runs/r20 runs/r20-tuned --out compared.html
    """

    run_folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")]
    """Folders that `ggdjax quantize --out` or `ggdjax tune --out` wrote."""
    out: Path | None = None
    """File to write; RUN/report.html by default, of several runs FIRST/compared.html."""

    def run(self) -> None:
        """Do the job.

        Raises:
            GgdjaxError: a RUN is no run folder, or the page cannot be written.
        """
        from ggdjax.cli._console import console
        from ggdjax.report import comparison_page, html_page

        if not self.run_folders:
            raise GgdjaxError("RUN is missing: name a folder that `ggdjax quantize --out` wrote")
        if self.out is not None and (self.out.is_dir() or not os.access(self.out.absolute().parent, os.W_OK)):
            raise GgdjaxError(f"`--out` {self.out} cannot be written: name a file, in a folder that is there")
        first, several = self.run_folders[0], len(self.run_folders) > 1
        if several:
            page = comparison_page(self.run_folders)
        else:
            # The first page of a run compares every scheme, which takes about a minute.
            with console().status("Reading the run") as status:
                page = html_page(first, status.update)
        out = first / ("compared.html" if several else "report.html") if self.out is None else self.out
        with atomic_write(out, "--out") as part:
            part.write_text(page, encoding="utf-8")
        print(f"Written to {out} ({len(page) / 1e6:.1f} MB)")
