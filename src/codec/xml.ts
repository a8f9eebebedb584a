// Reads small XML documents: property lists of macOS, disk descriptors of Parallels. A document type may only be named: an
// internal subset is refused, nothing is fetched, and the entities are the five of XML and numeric ones.
// Invariant: time is linear in the bytes, and memory is bounded by the limits below, whatever the document says.

import { DamagedData } from './damaged-data.ts';

export const MAX_XML_BYTES = 16 * 1024 * 1024;
const MAX_DEPTH = 64;
/** Elements and attributes together. */
const MAX_NODES = 65_536;

export interface XmlElement {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly XmlElement[];
  /** the character data directly inside, without that of the children; its line ends are those of the document */
  readonly text: string;
}

interface OpenElement extends XmlElement {
  readonly children: XmlElement[];
  text: string;
}

const ENTITIES: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };
const LONGEST_REFERENCE = '&#x10ffff;'.length;

const SPACE = /[ \t\r\n]*/y;
/** up to what ends a document type, or begins a part of one */
const PLAIN = /[^[>"']*/y;
const NAME = /[\p{L}_:][\p{L}\p{N}\p{M}_:.-]*/uy;
const ENCODING = /^<\?xml\s[^?]*\bencoding\s*=\s*["']([^"']*)["']/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: those that XML forbids
const FORBIDDEN = /[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/;

/** @param bytes UTF-8 @returns the root element @throws DamagedData "is ..." or "has ...", about the document */
export function parseXml(bytes: Uint8Array): XmlElement {
  if (bytes.length > MAX_XML_BYTES) throw new DamagedData(`has ${bytes.length} bytes; the limit is ${MAX_XML_BYTES}`);
  return new Reader(decodeText(bytes)).document();
}

/** The child elements of that name, in order. */
export function childrenNamed(element: XmlElement, name: string): readonly XmlElement[] {
  return element.children.filter((child) => child.name === name);
}

function decodeText(bytes: Uint8Array): string {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new DamagedData('is not in UTF-8');
  }
  const encoding = ENCODING.exec(text.slice(0, 256))?.[1];
  if (encoding !== undefined && !/^(utf-8|us-ascii)$/i.test(encoding))
    throw new DamagedData(`is in ${JSON.stringify(encoding)}, not in UTF-8`);
  const forbidden = FORBIDDEN.exec(text);
  if (forbidden !== null)
    throw new DamagedData(`has the character U+${hexCode(forbidden[0])} at character ${forbidden.index}`);
  return text;
}

function hexCode(character: string): string {
  return character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0');
}

class Reader {
  private readonly text: string;
  private at = 0;
  private nodes = 0;

  constructor(text: string) {
    this.text = text;
  }

  document(): XmlElement {
    if (this.startsWith('<?xml')) this.skipTo('?>', 'its declaration');
    this.skipBetween();
    if (this.startsWith('<!DOCTYPE')) this.skipDocumentType();
    this.skipBetween();
    const root = this.root();
    this.skipBetween();
    if (this.at < this.text.length) throw this.damaged('has content after its root element');
    return root;
  }

  /** Elements wait on a stack of their own, because the document decides how deep they lie. */
  private root(): XmlElement {
    const open: OpenElement[] = [];
    for (;;) {
      const parent = open.at(-1);
      if (parent !== undefined) this.characterData(parent);
      if (this.startsWith('</') && parent !== undefined) {
        this.closeTag(parent.name);
        open.pop();
        if (open.length === 0) return parent;
        continue;
      }
      const { element, isEmpty } = this.openTag();
      parent?.children.push(element);
      if (!isEmpty) open.push(element);
      else if (parent === undefined) return element;
      if (open.length > MAX_DEPTH) throw this.damaged(`has elements nested more than ${MAX_DEPTH} deep`);
    }
  }

  /** Everything up to the next tag, which is appended to the text of `element`. */
  private characterData(element: OpenElement): void {
    const parts: string[] = [];
    for (;;) {
      const end = this.text.indexOf('<', this.at);
      if (end < 0) throw this.cutOff(`<${element.name}>`);
      parts.push(this.resolve(this.text.slice(this.at, end)));
      this.at = end;
      if (this.startsWith('<![CDATA[')) {
        const start = this.at + '<![CDATA['.length;
        this.skipTo(']]>', 'a CDATA section');
        parts.push(this.text.slice(start, this.at - ']]>'.length));
      } else if (!this.skipsMisc()) break;
    }
    element.text += parts.join('');
  }

  private openTag(): { readonly element: OpenElement; readonly isEmpty: boolean } {
    this.expect('<');
    const name = this.name();
    this.count();
    const attributes = new Map<string, string>();
    for (;;) {
      const hadSpace = this.skipSpace();
      const isEmpty = this.startsWith('/>');
      if (isEmpty || this.startsWith('>')) {
        this.at += isEmpty ? 2 : 1;
        return { element: { name, attributes, children: [], text: '' }, isEmpty };
      }
      if (this.at >= this.text.length) throw this.cutOff('a tag');
      if (!hadSpace) throw this.damaged(`has a damaged tag of <${name}>`);
      this.attribute(attributes);
    }
  }

  private attribute(attributes: Map<string, string>): void {
    const name = this.name();
    this.count();
    if (attributes.has(name)) throw this.damaged(`has the attribute ${name} twice`);
    this.skipSpace();
    this.expect('=');
    this.skipSpace();
    const quote = this.text[this.at];
    if (quote !== '"' && quote !== "'") throw this.damaged(`has no quotes around the attribute ${name}`);
    const start = ++this.at;
    this.skipTo(quote, `the attribute ${name}`);
    const value = this.text.slice(start, this.at - 1);
    if (value.includes('<')) throw this.damaged(`has a < in the attribute ${name}`);
    attributes.set(name, this.resolve(value));
  }

  private closeTag(wanted: string): void {
    this.at += '</'.length;
    const name = this.name();
    if (name !== wanted) throw this.damaged(`has </${name}> where </${wanted}> is due`);
    this.skipSpace();
    this.expect('>');
  }

  /** @returns `part` with each reference replaced by its character */
  private resolve(part: string): string {
    let at = part.indexOf('&');
    if (at < 0) return part;
    const pieces: string[] = [];
    let from = 0;
    for (; at >= 0; at = part.indexOf('&', from)) {
      const reference = part.slice(at, at + LONGEST_REFERENCE);
      const end = reference.indexOf(';');
      const character = end < 0 ? undefined : characterOf(reference.slice(1, end));
      if (character === undefined) throw this.damaged('has an unknown entity or a stray &');
      pieces.push(part.slice(from, at), character);
      from = at + end + 1;
    }
    pieces.push(part.slice(from));
    return pieces.join('');
  }

  /** Skips the name of the document type and where it is defined. */
  private skipDocumentType(): void {
    for (let mark: string | undefined; mark !== '>'; ) {
      PLAIN.lastIndex = this.at;
      this.at += PLAIN.exec(this.text)![0].length;
      mark = this.text[this.at++];
      if (mark === '"' || mark === "'") this.skipTo(mark, 'its document type');
      else if (mark === '[') throw this.damaged('defines a document type, which is not supported');
      else if (mark === undefined) throw this.cutOff('its document type');
    }
  }

  /** Skips what may stand outside of the root element. */
  private skipBetween(): void {
    do this.skipSpace();
    while (this.skipsMisc());
  }

  /** Skips a comment or a processing instruction. @returns whether there was one */
  private skipsMisc(): boolean {
    if (this.startsWith('<!--')) {
      this.at += '<!--'.length;
      this.skipTo('-->', 'a comment');
      return true;
    }
    if (!this.startsWith('<?')) return false;
    this.skipTo('?>', 'a processing instruction');
    return true;
  }

  private skipSpace(): boolean {
    SPACE.lastIndex = this.at;
    const { length } = SPACE.exec(this.text)![0];
    this.at += length;
    return length > 0;
  }

  /** Goes to the end of the next `mark`. */
  private skipTo(mark: string, what: string): void {
    const found = this.text.indexOf(mark, this.at);
    if (found < 0) throw this.cutOff(what);
    this.at = found + mark.length;
  }

  private name(): string {
    NAME.lastIndex = this.at;
    const name = NAME.exec(this.text)?.[0];
    if (name === undefined) throw this.at < this.text.length ? this.damaged('has no name') : this.cutOff('a tag');
    this.at += name.length;
    return name;
  }

  private expect(mark: string): void {
    if (this.at >= this.text.length) throw this.cutOff('a tag');
    if (!this.startsWith(mark)) throw this.damaged(`has no ${mark}`);
    this.at += mark.length;
  }

  private startsWith(mark: string): boolean {
    return this.text.startsWith(mark, this.at);
  }

  private count(): void {
    if (++this.nodes > MAX_NODES) throw this.damaged(`has more than ${MAX_NODES} elements and attributes`);
  }

  private damaged(what: string): DamagedData {
    return new DamagedData(`${what} at character ${this.at}`);
  }

  private cutOff(what: string): DamagedData {
    return new DamagedData(`ends inside ${what}`);
  }
}

/** The character that a reference without & and ; stands for. */
function characterOf(reference: string): string | undefined {
  if (Object.hasOwn(ENTITIES, reference)) return ENTITIES[reference];
  const [, isHex, digits] = /^#(x?)([0-9a-fA-F]+)$/.exec(reference) ?? [];
  if (digits === undefined || (isHex === '' && /[a-f]/i.test(digits))) return undefined;
  const code = Number.parseInt(digits, isHex === 'x' ? 16 : 10);
  if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return undefined;
  const character = String.fromCodePoint(code);
  return FORBIDDEN.test(character) ? undefined : character;
}
