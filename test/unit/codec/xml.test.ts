// The XML reader: what a document says comes back, and what could cost more than its bytes is refused.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DamagedData } from '../../../src/codec/damaged-data.ts';
import { childrenNamed, MAX_XML_BYTES, parseXml, type XmlElement } from '../../../src/codec/xml.ts';
import { seededRandom } from '../../support/random.ts';

const SEED = Number(process.env['SEED'] ?? 1);

const parse = (text: string): XmlElement => parseXml(Buffer.from(text));

function damageOf(document: string | Uint8Array): string {
  try {
    parseXml(typeof document === 'string' ? Buffer.from(document) : document);
  } catch (error) {
    if (error instanceof DamagedData) return error.message;
    throw error;
  }
  throw new Error('it was read');
}

/** What was read, as JSON shows it. */
function plain({ name, attributes, children, text }: XmlElement): unknown {
  return [name, Object.fromEntries(attributes), text, ...children.map(plain)];
}

const DOCUMENT = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- a <comment> -->
<plist version="1.0">
<dict>
\t<key>a &amp; b</key><string attribute = 'say "&lt;"' other="it&apos;s"/>
\t<name>one<?an instruction?>two<!-- -->three<![CDATA[<&]]>four<inner/>five</name>
</dict>
</plist >
<?end?>
`;

describe('a document', () => {
  test('comes back with its elements, attributes and text', () => {
    const [dict] = parse(DOCUMENT).children;
    expect(dict!.children.map(plain)).toEqual([
      ['key', {}, 'a & b'],
      ['string', { attribute: 'say "<"', other: "it's" }, ''],
      ['name', {}, 'onetwothree<&fourfive', ['inner', {}, '']],
    ]);
    expect(childrenNamed(dict!, 'name')).toEqual([dict!.children[2]]);
    expect(parse(DOCUMENT)).toMatchObject({ name: 'plist', attributes: new Map([['version', '1.0']]) });
  });

  test('may begin with a byte order mark, and have names and text of any language', () => {
    expect(plain(parse('\ufeff<größe 位="é\u{1f600}">ß</größe>'))).toEqual(['größe', { 位: 'é\u{1f600}' }, 'ß']);
  });

  test('may have numeric references', () => {
    expect(parse('<a>&#65;&#x42;&#x1F600;&#xa;</a>').text).toBe('AB\u{1f600}\n');
  });

  test('made of random trees comes back', () => {
    interface Tree {
      readonly tag: string;
      readonly key: string;
      readonly value: string;
      readonly text: string;
      readonly inner: readonly Tree[];
    }
    const escaped = (text: string): string =>
      text.replace(/[&<>"']/g, (c) => `&${{ '&': 'amp', '<': 'lt', '>': 'gt', '"': 'quot', "'": 'apos' }[c]};`);
    const word = fc.stringMatching(/^[ -~]{0,12}$/);
    const tag = fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_.-]{0,6}$/);
    const tree: (depth?: number) => fc.Arbitrary<Tree> = fc.memo((depth) =>
      fc.record({
        tag,
        key: tag,
        value: word,
        text: word,
        inner: depth > 1 ? fc.array(tree(), { maxLength: 3 }) : fc.constant([]),
      }),
    );
    const write = ({ tag, key, value, text, inner }: Tree): string =>
      `<${tag} ${key}='${escaped(value)}'>${escaped(text)}${inner.map(write).join('')}</${tag}>`;
    const wanted = ({ tag, key, value, text, inner }: Tree): unknown => [
      tag,
      { [key]: value },
      text,
      ...inner.map(wanted),
    ];
    fc.assert(
      fc.property(tree(5), (made) => {
        expect(plain(parse(write(made)))).toEqual(wanted(made));
      }),
      { seed: SEED },
    );
  });
});

describe('damage is told', () => {
  test.each([
    ['', /ends inside a tag/],
    ['   ', /ends inside a tag/],
    ['text', /has no < at character 0/],
    ['<a>', /ends inside <a>/],
    ['<a', /ends inside a tag/],
    ['<a b', /ends inside a tag/],
    ['<a b="', /ends inside the attribute b/],
    ['<a></b>', /has <\/b> where <\/a> is due/],
    ['<a></a', /ends inside a tag/],
    ['</a>', /has no name/],
    ['<a/><b/>', /content after its root element/],
    ['<a/>text', /content after its root element/],
    ['<a b=c/>', /no quotes around the attribute b/],
    ['<a b="1" b="2"/>', /the attribute b twice/],
    ['<a b="1"c="2"/>', /damaged tag of <a>/],
    ['<a b="<"/>', /a < in the attribute b/],
    ['<a b/>', /has no =/],
    ['<a><!-- </a>', /ends inside a comment/],
    ['<a><![CDATA[ </a>', /ends inside a CDATA section/],
    ['<a><? </a>', /ends inside a processing instruction/],
    ['<a><!ENTITY b "c"></a>', /has no name/],
    ['<?xml version="1.0"', /ends inside its declaration/],
    ['<!DOCTYPE a', /ends inside its document type/],
    ['<!DOCTYPE a "[\'>', /ends inside its document type/],
    ['<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', /defines a document type, which is not supported/],
    ['<!DOCTYPE a SYSTEM "x" [ ]><a/>', /defines a document type/],
    ['<!DOCTYPE a <b/>', /ends inside a tag/],
    ['<a>\0</a>', /the character U\+0000 at character 3/],
    ['<a>\ufffe</a>', /the character U\+FFFE/],
    ['<?xml version="1.0" encoding="UTF-16"?><a/>', /is in "UTF-16", not in UTF-8/],
  ])('in %j', (text, sentence) => {
    expect(damageOf(text)).toMatch(sentence);
  });

  test.each([
    '&lol;',
    '& ',
    '&amp',
    '&;',
    '&#;',
    '&#x;',
    '&#65a;',
    '&#x110000;',
    '&#xd800;',
    '&#0;',
    '&#x1f;',
    '&constructor;',
    '&#99999999999;',
  ])('of the reference %s', (reference) => {
    expect(damageOf(`<a>${reference}</a>`)).toMatch(/unknown entity or a stray &/);
    expect(damageOf(`<a b="${reference}"/>`)).toMatch(/unknown entity or a stray &/);
  });

  test('of bytes that are no UTF-8', () => {
    expect(damageOf(Buffer.from('<a>\xff</a>', 'latin1'))).toBe('is not in UTF-8');
    expect(damageOf(Buffer.from('\ufeff<a/>', 'utf16le'))).toBe('is not in UTF-8');
  });
});

describe('a limit holds', () => {
  test('for the length', () => {
    expect(parse(`<a>${' '.repeat(MAX_XML_BYTES - 7)}</a>`).text).toHaveLength(MAX_XML_BYTES - 7);
    expect(damageOf(new Uint8Array(MAX_XML_BYTES + 1))).toMatch(/has 16777217 bytes; the limit is 16777216/);
  });

  test('for the depth', () => {
    expect(parse('<a>'.repeat(64) + '</a>'.repeat(64)).name).toBe('a');
    expect(damageOf('<a>'.repeat(65) + '</a>'.repeat(65))).toMatch(/more than 64 deep/);
    expect(damageOf('<a>'.repeat(5_000_000))).toMatch(/more than 64 deep/);
  });

  test('for elements and attributes together', () => {
    const attributes = Array.from({ length: 30_000 }, (_, i) => ` a${i}=""`).join('');
    expect(parse(`<r${attributes}>${'<b/>'.repeat(35_535)}</r>`).children).toHaveLength(35_535);
    expect(damageOf(`<r${attributes}>${'<b/>'.repeat(35_536)}</r>`)).toMatch(/more than 65536 elements/);
    expect(damageOf(`<r>${'<b/>'.repeat(4_000_000)}</r>`)).toMatch(/more than 65536 elements/);
  });

  test.each([
    ['open tags of one element', '<a '],
    ['references', '&amp;'],
    ['comments', '<!---->'],
    ['comments without an end', '<!--'],
    ['CDATA sections without an end', '<![CDATA['],
    ['letters', 'a'],
    ['quotes', '"'],
    ['document types', '<!DOCTYPE '],
    ['spaces', ' '],
    ['carriage returns', '\r'],
  ])('for the time that 8 MiB of %s take', { timeout: 30_000 }, (_, part) => {
    const many = part.repeat(Math.floor((8 * 1024 * 1024) / part.length));
    for (const text of [many, `<a>${many}`, `<!DOCTYPE a ${many}`]) {
      try {
        parse(text);
      } catch (error) {
        expect(error).toBeInstanceOf(DamagedData);
      }
    }
  });
});

test('a document with bytes changed is read or refused, and never anything else', () => {
  const random = seededRandom(SEED);
  const whole = Buffer.from(DOCUMENT);
  const pieces = ['<', '>', '&', '"', "'", '/', '!', '?', '[', ']', '-', '\0', '\xff', '<!--', '<![CDATA[', '&#x', 'a'];
  for (let round = 0; round < 20_000; round++) {
    const parts = [whole];
    for (let i = 0; i <= random() * 3; i++) {
      const piece = Buffer.from(pieces[Math.floor(random() * pieces.length)]!, 'latin1');
      const at = Math.floor(random() * whole.length);
      const last = parts.pop()!;
      parts.push(last.subarray(0, at), piece, last.subarray(at + Math.floor(random() * 4)));
    }
    try {
      parseXml(Buffer.concat(parts));
    } catch (error) {
      expect(error).toBeInstanceOf(DamagedData);
    }
  }
});
