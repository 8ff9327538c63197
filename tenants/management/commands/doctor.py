"""manage.py doctor: run the checks of one org or of all of them, from a terminal."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants import doctor
from tenants.models import Org
from tenants.tenancy import every_org


class Command(BaseCommand):
    """Print what is not as it should be, and end with 1 if a check failed."""

    help = "Check the Salesforce and Infobip set-up of orgs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("org", nargs="?", help="org id of 15 or 18 characters; all connected ones if left out")
        parser.add_argument("--all-checks", action="store_true", help="print the checks that passed, too")

    def handle(self, *args: Any, org: str | None = None, all_checks: bool = False, **options: Any) -> None:
        if org is not None and len(org) not in (15, 18):
            raise CommandError(f"No org has the id {org!r}: an org id has 15 or 18 characters.")
        with every_org():
            chosen = Org.objects.filter(salesforce__isnull=False).order_by("name")
            orgs = list(chosen.filter(salesforce_id__startswith=org[:15]) if org else chosen.filter(disconnected_at=None))
        if org and not orgs:
            raise CommandError(f"No org has the id {org}.")
        failed = sum(self._report(each, doctor.run_checks(each), all_checks=all_checks) for each in orgs)
        if failed:
            raise CommandError(f"{failed} {'check' if failed == 1 else 'checks'} failed.")

    def _report(self, org: Org, findings: list[doctor.Finding], *, all_checks: bool) -> int:
        wrong = [finding for finding in findings if finding.state is not doctor.State.OK]
        self.stdout.write(
            f"{org.name} ({org.salesforce_id}): {len(findings) - len(wrong)} of {len(findings)} checks passed"
        )
        for finding in findings if all_checks else wrong:
            self.stdout.write(f"  {finding.state.upper():8} {finding.title}: {finding.found}")
            if finding.state is not doctor.State.OK:
                expected = finding.expected and f"           expected: {finding.expected}\n"
                self.stdout.write(f"{expected}           {finding.why} {finding.remedy}".rstrip())
        return sum(finding.state is doctor.State.FAILED for finding in wrong)
