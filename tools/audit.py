"""Audits what this project is built from, without a network; ends with 3 where something is found.

usage: python -m tools.audit [--complete]   (or: make check, and make audit for every byte)

The files of every installed distribution against its own record; what came from elsewhere than an index; bounds and
requirements; licences; and known vulnerabilities (tools/advisories.json) of what is installed, pinned or admitted.
It trusts the records: it finds what was changed or added after the installation, not a bad release.
"""

from __future__ import annotations

import sys
import sysconfig
import time
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from alexnet_deploy.errors import EXIT_DONE, EXIT_GATE, AlexnetDeployError
from tools.advisories import Advisories, advisories_from_file, bound_findings, pin_findings
from tools.constraints import LOWEST, MEASURED, pins_from_text
from tools.declared import Dependency, Installed, dependencies, installed, requirements_of
from tools.licences import licence_findings
from tools.records import Finding, origin_findings, record_findings, stray_findings


def main(arguments: list[str]) -> int:
    """Prints the findings, or one line that says what was looked at."""
    begun = time.perf_counter()
    try:
        findings, said = audit(complete="--complete" in arguments)
    except AlexnetDeployError as exc:
        print(f"supply: {exc}", file=sys.stderr)
        return exc.exit_code
    for finding in findings:
        print(f"supply: {finding}", file=sys.stderr)
    if findings:
        return EXIT_GATE
    print(f"supply: {said}, {time.perf_counter() - begun:.0f} s")
    return EXIT_DONE


def audit(*, complete: bool = False) -> tuple[list[Finding], str]:
    """All that is wrong, and what was looked at.

    Raises:
        AlexnetDeployError: There is nothing to audit by: a requirement without a bound, a package twice.
    """
    declared, environment, known = dependencies(), installed(), advisories_from_file()
    changed, files = record_findings(environment, complete=complete)
    unfit, packages = licence_findings(declared, environment)
    findings = [
        *changed,
        *(one for folder in _site_packages() for one in stray_findings(environment, folder)),
        *origin_findings(environment),
        *requirement_findings(declared, environment),
        *unfit,
        *advisory_findings(declared, environment, known),
    ]
    said = (
        f"{len(environment)} distributions with {files} files as installed, licences of {packages} packages, "
        f"{len(known.records)} advisories of {known.reviewed}"
    )
    return findings, said


def _site_packages() -> list[Path]:
    return sorted({Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")})


def requirement_findings(declared: list[Dependency], environment: Installed) -> list[Finding]:
    """What is missing or has another version than we, or anything installed, require."""
    findings = [
        Finding(subject=f"{one.name} {environment[one.name].version}", problem=f"we require {one.requirement}")
        for one in declared
        if one.applies and one.name in environment and not one.admits(Version(environment[one.name].version))
    ]
    findings += [
        Finding(subject=one.name, problem=f"is missing, and we require {one.requirement}")
        for one in declared
        if one.applies and one.extra is None and one.name not in environment
    ]
    for name, distribution in sorted(environment.items()):
        for requirement in requirements_of(distribution):
            found = environment.get(canonicalize_name(requirement.name))
            if found is None or not requirement.specifier.contains(found.version, prereleases=True):
                problem = f"requires {requirement}, got {found.version if found else 'none'}"
                findings.append(Finding(subject=f"{name} {distribution.version}", problem=problem))
    return findings


def advisory_findings(declared: list[Dependency], environment: Installed, known: Advisories) -> list[Finding]:
    """Known vulnerabilities of what is installed here, pinned in constraints/, or admitted by our bounds."""
    here = {name: Version(distribution.version) for name, distribution in environment.items()}
    findings = bound_findings(known.records, declared) + pin_findings(known.records, here, "this environment")
    for path in (MEASURED, LOWEST):
        findings += pin_findings(known.records, pins_from_text(path.read_text()), f"constraints/{path.name}")
    return findings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
