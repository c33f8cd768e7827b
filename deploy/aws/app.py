"""The CDK app: ``python -m deploy.aws.app`` writes the template to ``cdk.out``.

Needs no AWS account and no network.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from aws_cdk import App, Tags, Validations
from cdk_nag import AwsSolutionsChecks

from deploy.aws import bundle
from deploy.aws.parameters import ParameterError, Parameters, parameters_of
from deploy.aws.stack import CandleflowStack

STACK: Final = "Candleflow"


def make_app(parameters: Parameters, outdir: str | None = None, **more: Any) -> App:
    """Build the app with its one stack and with cdk-nag's checks, which ``synth`` runs."""
    if not bundle.BROKER.exists():
        bundle.bundle()
    app = App(outdir=outdir, **more)
    stack = CandleflowStack(app, STACK, parameters, description="Candleflow: live trades to exact candles")
    Tags.of(stack).add("project", "candleflow")
    # AWS's managed policy lets EMR's role act only on resources with this tag.
    Tags.of(stack).add("for-use-with-amazon-emr-managed-policies", "true")
    Validations.of(app).add_plugins(AwsSolutionsChecks(app, write_suppressions_to_cloud_formation=True))
    return app


def main() -> int:
    try:
        parameters = parameters_of(App().node.try_get_context)
    except ParameterError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    make_app(parameters, os.environ.get("CDK_OUTDIR")).synth()
    return 0


if __name__ == "__main__":
    sys.exit(main())
