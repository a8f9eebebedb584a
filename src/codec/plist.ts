// Property lists of macOS in their XML form (plist(5)). Binary ones begin with "bplist" and are not read here.

import { DamagedData } from './damaged-data.ts';
import { parseXml, type XmlElement } from './xml.ts';

/** A date is its text. */
export type PlistValue = string | number | boolean | Uint8Array | PlistArray | PlistDictionary;
export type PlistArray = readonly PlistValue[];
export type PlistDictionary = ReadonlyMap<string, PlistValue>;

/** @returns the value of the list, mostly a dictionary @throws DamagedData "is ..." or "has ...", about the list */
export function parsePlist(bytes: Uint8Array): PlistValue {
  const root = parseXml(bytes);
  if (root.name !== 'plist') throw new DamagedData(`has <${root.name}> where <plist> is due`);
  const [only, another] = root.children;
  if (only === undefined || another !== undefined)
    throw new DamagedData(`has ${root.children.length} values where one is due`);
  return valueFrom(only);
}

/** The entry of a dictionary as a dictionary; undefined if there is none, or if it is something else. */
export function dictionaryAt(value: PlistValue | undefined, key: string): PlistDictionary | undefined {
  const entry = entryAt(value, key);
  return entry instanceof Map ? entry : undefined;
}

/** The same for an array. */
export function arrayAt(value: PlistValue | undefined, key: string): PlistArray | undefined {
  const entry = entryAt(value, key);
  return Array.isArray(entry) ? entry : undefined;
}

/** The same for data. */
export function dataAt(value: PlistValue | undefined, key: string): Uint8Array | undefined {
  const entry = entryAt(value, key);
  return entry instanceof Uint8Array ? entry : undefined;
}

function entryAt(value: PlistValue | undefined, key: string): PlistValue | undefined {
  return value instanceof Map ? (value as PlistDictionary).get(key) : undefined;
}

/** The reader of XML bounds how deep this goes. */
function valueFrom(element: XmlElement): PlistValue {
  const { name, children, text } = element;
  switch (name) {
    case 'dict':
      return dictionaryOf(children);
    case 'array':
      return children.map(valueFrom);
    case 'string':
    case 'date':
      return text;
    case 'data':
      return bytesOf(text);
    case 'integer':
    case 'real':
      return numberOf(name, text.trim());
    case 'true':
      return true;
    case 'false':
      return false;
    default:
      throw new DamagedData(`has <${name}> where a value is due`);
  }
}

function dictionaryOf(children: readonly XmlElement[]): PlistDictionary {
  const entries = new Map<string, PlistValue>();
  for (let i = 0; i < children.length; i += 2) {
    const key = children[i]!;
    const value = children[i + 1];
    if (key.name !== 'key') throw new DamagedData(`has <${key.name}> where <key> is due`);
    if (value === undefined) throw new DamagedData(`has the key ${JSON.stringify(key.text)} without a value`);
    if (entries.has(key.text)) throw new DamagedData(`has the key ${JSON.stringify(key.text)} twice`);
    entries.set(key.text, valueFrom(value));
  }
  return entries;
}

function bytesOf(text: string): Uint8Array {
  const digits = text.replaceAll(/[ \t\r\n]+/g, '');
  if (digits.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(digits))
    throw new DamagedData('has <data> that is not base64');
  return Buffer.from(digits, 'base64');
}

function numberOf(name: 'integer' | 'real', text: string): number {
  const isInteger = name === 'integer';
  const form = isInteger ? /^[+-]?[0-9]{1,16}$|^0x[0-9a-fA-F]{1,14}$/ : /^[+-]?[0-9.]{1,400}([eE][+-]?[0-9]{1,4})?$/;
  const value = form.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value) || (isInteger && !Number.isSafeInteger(value)))
    throw new DamagedData(`has the ${name} ${JSON.stringify(text.slice(0, 40))}, which cannot be read`);
  return value;
}
