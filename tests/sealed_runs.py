"""Stages that look finished, without having run."""

from mralign.run.store import Manifest


def seal(item, *, rows, figures):
    """Write the manifest that `item` would have after its run."""
    item.out.seal(
        Manifest(
            stage=item.stage.name,
            fingerprint=item.out.fingerprint,
            config=item.settings,
            upstream={name: out.fingerprint for name, out in item.upstream.items()},
            inputs=item.inputs,
            rows_in=rows,
            rows_out=rows,
            rejects={},
            seconds=3.0,
            versions={},
            figures=figures,
        )
    )
