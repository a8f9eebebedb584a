// What check prints, against the words and numbers of qemu-img.

import { describe, expect, it } from 'vitest';
import { checkJson, checkText } from '../../../../src/cli/commands/check.ts';
import { emptyCheckReport } from '../../../../src/format/check-report.ts';

describe('check', () => {
  const report = { ...emptyCheckReport('qed'), totalClusters: 160, allocatedClusters: 1 };
  it('prints what qemu-img prints for a clean image', () => {
    expect(checkText({ ...report, totalClusters: 200 })).toBe(
      'No errors were found on the image.\n1/200 = 0.50% allocated, 0.00% fragmented, 0.00% compressed clusters',
    );
  });
  it('counts what is left after a repair, and what was repaired', () => {
    const repaired = { ...report, corruptions: 3, corruptionsFixed: 2, leaks: 5, leaksFixed: 5 };
    expect(checkText(repaired)).toContain('    5 leaked clusters\n    2 corruptions');
    expect(checkText(repaired)).toContain('1 error was found on the image.');
    expect(checkJson('a', repaired, [])).toMatchObject({ corruptions: 1, 'corruptions-fixed': 2, 'leaks-fixed': 5 });
    expect(checkJson('a', repaired, [])['leaks']).toBeUndefined();
  });
});
