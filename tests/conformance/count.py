"""Counts what the conformance suite reported, and judges it.

    count.py DIR VERSION LEAST EXIT_CODE

The suite ends with 0 also when it could not write its report or read its settings, so the report is what counts.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as xml

folder, version, least, code = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
try:
    report = xml.parse(os.path.join(folder, "junit.xml"))
    total = {key: int(value) for key, value in report.find("testsuite").attrib.items() if value.isdigit()}
    cases = list(report.iter("testcase"))
except (OSError, xml.ParseError, AttributeError) as error:
    print(f"conformance {version}: no report: {error}", flush=True)
    subprocess.run(["tail", "-n", "20", os.path.join(folder, "output")])
    sys.exit(1)

# Each of the suite's counted checks is a test case or a group of them; the cases say what was wrong.
for case in cases:
    # What the registry says it cannot do is a skip; what the version's defaults leave out is a skipped case without a word.
    if case.get("status") != "passed" and (case.get("status") != "skipped" or case.findtext("system-out")):
        print(f"{case.get('status')}: {case.get('name')}")
        for line in (case.findtext("system-out") or "").strip().splitlines()[:3]:
            print(f"  | {line[:300]}")
failed = total.get("failures", 0) + total.get("errors", 0)
skipped, disabled = total.get("skipped", 0), total.get("disabled", 0)
passed = total["tests"] - failed - skipped - disabled
print(f"conformance {version}: {passed} passed, {failed} failed, {skipped} skipped, {disabled} left out by the suite")
good = failed == skipped == 0 and passed >= least and code == 0
if not good and failed == skipped == 0:
    print(f"at least {least} were to pass, and the suite to end with 0: it ended with {code}")
sys.exit(0 if good else 1)
