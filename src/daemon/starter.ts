// The channel between a mount process in the background and the command that started it: passwords go down, and until the mount
// answers, reports go up. The functions run in the mount process; the command (start-mount.ts) has the other end.
// Invariant: the mount process notices if the command is gone, so that no mount appears that nobody waits for.

import type { OpenStep } from '../disk/index.ts';
import type { ErrorKind } from '../errors/index.ts';
import type { PasswordSource } from '../host/passwords.ts';
import type { MountRecord } from '../mounts/runtime-directory.ts';
import type { MountRequest } from './mount-request.ts';

export const ORPHANED = 'the command that started the mount is gone';

/** A report of the mount process to the command that started it. */
export type StartReport =
  | { readonly type: 'ready'; readonly record: MountRecord }
  | {
      readonly type: 'failed';
      readonly sentence: string;
      readonly exitCode: number;
      /** of the error, unless it is a bug or the mount was told to end */
      readonly kind?: ErrorKind;
      readonly operation?: string;
      /** the encrypted image that needs a password */
      readonly passwordNeeded?: string;
    }
  | { readonly type: 'note'; readonly sentence: string }
  /** what the open of the image is doing */
  | { readonly type: 'step'; readonly step: OpenStep };

/** The passwords for the mount process, in base64: one for every image, or one per image. */
export interface PasswordMessage {
  readonly given: string | null;
  readonly byImage: readonly (readonly [path: string, password: string])[];
}

/** @returns whether the command that started this process has received it */
export function report(message: StartReport): Promise<boolean> {
  return new Promise((resolve) => {
    if (!process.connected || process.send === undefined) resolve(false);
    else process.send(message, undefined, {}, (error) => resolve(error === null));
  });
}

/** The passwords that the starting command sends if it has announced them; it has the terminal and the environment. */
export async function passwordsFromStarter({ passwordsFollow }: MountRequest): Promise<PasswordSource> {
  if (passwordsFollow !== true) return { given: null, byImage: new Map(), mayAsk: false };
  const message = await new Promise<PasswordMessage>((resolve, reject) => {
    process.once('message', (received) => resolve(received as PasswordMessage));
    process.once('disconnect', () => reject(new Error(ORPHANED)));
  });
  const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'base64'));
  return {
    given: message.given === null ? null : bytes(message.given),
    byImage: new Map(message.byImage.map(([path, password]) => [path, bytes(password)])),
    mayAsk: false,
  };
}
