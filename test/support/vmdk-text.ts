// Descriptors of VMDK images as text.

export interface DescriptorText {
  readonly extents: readonly string[];
  readonly cid?: string;
  readonly parentCid?: string;
  readonly createType?: string;
  /** further lines, before the extents */
  readonly lines?: readonly string[];
  readonly ddb?: readonly string[];
  readonly newline?: string;
}

export function descriptorText(parts: DescriptorText): string {
  const {
    cid = '1a2b3c4d',
    createType = 'custom',
    ddb = [],
    extents,
    lines = [],
    newline = '\n',
    parentCid = 'ffffffff',
  } = parts;
  return [
    '# Disk DescriptorFile',
    'version=1',
    'encoding="UTF-8"',
    `CID=${cid}`,
    `parentCID=${parentCid}`,
    `createType="${createType}"`,
    ...lines,
    '',
    '# Extent description',
    ...extents,
    '',
    '# The Disk Data Base',
    '#DDB',
    '',
    ...ddb,
    '',
  ].join(newline);
}
