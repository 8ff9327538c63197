"""manage.py doctor: examine one org or all of them, from a terminal."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants import doctor
from tenants.models import Org
from tenants.tenancy import every_org


class Command(BaseCommand):
    """Print what is not well, and end with 1 if something is bad."""

    help = "Examine the Salesforce and Infobip set-up of orgs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("org", nargs="?", help="org id of 15 or 18 characters; all connected ones if left out")
        parser.add_argument("--all-checks", action="store_true", help="print what is well, too")

    def handle(self, *args: Any, org: str | None = None, all_checks: bool = False, **options: Any) -> None:
        if org is not None and len(org) not in (15, 18):
            raise CommandError(f"No org has the id {org!r}: an org id has 15 or 18 characters.")
        with every_org():
            chosen = Org.objects.select_related("salesforce").filter(salesforce__isnull=False).order_by("name")
            orgs = list(chosen.filter(salesforce_id__startswith=org[:15]) if org else chosen.filter(disconnected_at=None))
        if org and not orgs:
            raise CommandError(f"No org has the id {org}.")
        bad = 0
        for each in orgs:
            findings = doctor.examine(each)
            wrong = [finding for finding in findings if finding.state is not doctor.State.GOOD]
            bad += sum(finding.state is doctor.State.BAD for finding in wrong)
            self.stdout.write(
                f"{each.name} ({each.salesforce_id}): {len(findings) - len(wrong)} of {len(findings)} checks are well"
            )
            for finding in findings if all_checks else wrong:
                self.stdout.write(f"  {finding.state.upper():8} {finding.title}: {finding.found}")
                if finding.state is not doctor.State.GOOD:
                    expected = finding.expected and f"           expected: {finding.expected}\n"
                    self.stdout.write(f"{expected}           {finding.why} {finding.remedy}".rstrip())
        if bad:
            raise CommandError(f"{bad} {'check' if bad == 1 else 'checks'} found something bad.")
