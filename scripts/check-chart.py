#!/usr/bin/env python3
"""Renders the chart with several values into a folder, a file for each; see check-chart.sh.

    scripts/check-chart.py FOLDER

Exits with 1 if the lint finds something, if wrong values are accepted, or if the worker differs from deploy/kubernetes.yaml.
"""

import sys
from pathlib import Path

import helm_python
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/helm/outbox"

VALUES = {
    "defaults": {},
    "all": {
        "image": {"pullSecrets": [{"name": "registry"}], "tag": "1.2.3"},
        "extraEnv": [{"name": "OUTBOX_LOG", "value": "debug"}],
        "extraVolumes": [{"name": "authority", "secret": {"secretName": "authority"}}],
        "extraVolumeMounts": [{"name": "authority", "mountPath": "/run/authority", "readOnly": True}],
        "migration": {
            "existingSecret": "outbox-owner",
            "grants": {"sql": "GRANT USAGE ON SCHEMA outbox TO worker;\nGRANT SELECT ON outbox.outbox_meta TO worker;\n"},
        },
        "worker": {"extraArgs": ["--backends", "default"]},
        "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 4222}]}]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podAnnotations": {"example.com/team": "orders"},
        "podLabels": {"team": "orders"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}},
    },
    "least": {
        "migration": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "topologySpreadConstraints": [],
    },
    "closed": {"networkPolicy": {"metricsFrom": [], "egress": []}},
}
WRONG = [{"replicas": 3}, {"migration": {"grants": "GRANT"}}, {"existingSecret": ""}, {"networkPolicy": {"enabled": "yes"}}]


def objects(chart, values):
    manifests = chart.render(values, name="outbox", namespace="default")
    texts = [text for name, text in manifests.items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def only(documents, kind):
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def worker(documents):
    """What the chart and the manifest must have in common."""
    pod = only(documents, "Deployment")["spec"]["template"]["spec"]
    container = {name: value for name, value in pod["containers"][0].items() if name != "imagePullPolicy"}
    names = ("automountServiceAccountToken", "securityContext", "terminationGracePeriodSeconds")
    settings = next(document for document in documents if document["kind"] == "ConfigMap")
    return {name: pod[name] for name in names}, container, settings["data"]["outbox.toml"].strip()


def check_grants(chart):
    """Grants run after the migration, as its role, with the SQL of the values word for word."""
    documents = objects(chart, VALUES["all"])
    pod = only(documents, "Job")["spec"]["template"]["spec"]
    (before,), (after,) = pod["initContainers"], pod["containers"]
    settings = next(document for document in documents if "grants.sql" in document.get("data", {}))
    is_right = (before["args"] == ["migrate"] and after["env"] == before["env"] and after["image"] != before["image"]
        and settings["data"]["grants.sql"].strip() == VALUES["all"]["migration"]["grants"]["sql"].strip()
        and settings["metadata"]["name"] == pod["volumes"][0]["configMap"]["name"])
    if not is_right:
        sys.exit(f"the grants are wrong: {settings['data']}, {pod}")
    if "initContainers" in only(objects(chart, {}), "Job")["spec"]["template"]["spec"]:
        sys.exit("without grants the migration is the Job's only container")


def is_refused(chart, values):
    try:
        chart.validate_schema(values)
    except helm_python.HelmError:
        return True
    return False


def main(folder):
    report = helm_python.lint(CHART, strict=True)
    findings = [message for message in report["messages"] if message["error"] != "icon is recommended"] + report["errors"]
    if findings:
        sys.exit(f"lint: {findings}")
    folder.mkdir(parents=True)
    with helm_python.Chart.load(CHART) as chart:
        for name, values in VALUES.items():
            chart.validate_schema(values)
            # ServiceMonitor is the operator's own kind, of which Kubernetes' schemas know nothing.
            documents = [document for document in objects(chart, values) if document["kind"] != "ServiceMonitor"]
            (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(documents), encoding="utf-8")
            print(f"{name}: {', '.join(document['kind'] for document in documents)}")
        check_grants(chart)
        for values in WRONG:
            if not is_refused(chart, values):
                sys.exit(f"accepted: {values}")
        manifest = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8")))
        if worker(objects(chart, {})) != worker(manifest):
            sys.exit(f"the workers differ:\n{worker(objects(chart, {}))}\n{worker(manifest)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
