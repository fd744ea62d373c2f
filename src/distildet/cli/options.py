"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

ModelArgument = Annotated[
    Path,
    typer.Argument(
        help="A detector bundle such as runs/NAME/student, a stock torchvision .pth file, or a "
        "YAML file that declares another detector, as an entry of `teachers` does."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[
    Literal["fp32", "bf16", "fp16"],
    typer.Option(help="What networks compute in; boxes, losses and weights are always fp32."),
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Images that the network sees at once.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that decode images.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ListOption = Annotated[
    Path | None, typer.Option("--list", help="File with the names to use, one a line.")
]
