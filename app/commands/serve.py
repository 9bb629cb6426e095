"""`vlcap serve`: the server for programs. app/serve is what answers."""

from typing import Annotated

import typer

from app import loading
from app.options import Beams, BudgetOrAuto, Engine, Int8, Model
from app.parsing import parse_budget


def serve(
    model: Model = None,
    engine: Engine = None,
    int8: Int8 = False,
    budget: BudgetOrAuto = None,
    beams: Beams = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 exposes the server to your network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.")] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name that programs use for this machine, such as a container's; repeat to give several."),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Requests under way at most; further ones are told to try again later.")
    ] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Photos per batch at most, for each lane of the engine.")] = 16,
) -> None:
    """Caption photos for programs, by an API like OpenAI's and by a plain one.

    Requests that arrive together are captioned in one batch. If $VLCAP_API_KEY is set, programs have to send that key.
    """
    side = parse_budget(budget)
    from app.address import check_address
    from app.serve.middleware import key_asked_for

    check_address(host, port)  # before the captioner is loaded, which takes longer
    key_asked_for()
    captioner = loading.load(model, engine, int8=int8)
    exported = getattr(captioner.engine, "exported", None)  # the ONNX engine's
    if side is not None and exported and side not in exported:
        raise typer.BadParameter(
            f"--budget {side}: its graphs are for budgets {', '.join(map(str, exported))}: add --engine pytorch"
        )
    from app.serve import serve as run
    from app.serve.model import ServedModel

    chosen = loading.choose_budget(captioner, budget, model)
    served = ServedModel(captioner, loading.rule_of(model), chosen, dict(loading.search_settings(beams)))
    run(served, host, port, name or [], requests, batch_size)
