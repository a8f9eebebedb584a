// The channel between a mount process in the background and the command that started it: passwords go down, and until the mount
// answers, reports go up. The functions run in the mount process; the command (start-mount.ts) has the other end.
// Invariant: a command that is gone is noticed, so that no mount appears that nobody waits for.

import type { OpenStep } from '../disk/index.ts';
import type { PasswordSource } from '../host/passwords.ts';
import type { MountRecord } from '../mounts/runtime-directory.ts';
import type { MountRequest } from './mount-request.ts';

export const ORPHANED = 'the command that started the mount is gone';

/** What the mount process reports to the one that started it. */
export type StartReport =
  | { readonly type: 'ready'; readonly record: MountRecord }
  | {
      readonly type: 'failed';
      readonly sentence: string;
      readonly exitCode: number;
      /** the encrypted image that there was no password for */
      readonly passwordNeeded?: string;
    }
  | { readonly type: 'note'; readonly sentence: string }
  /** what the open of the image is doing */
  | { readonly type: 'step'; readonly step: OpenStep };

/** What the mount process is handed: for every image, or image by image; base64. */
export interface PasswordMessage {
  readonly given: string | null;
  readonly byImage: readonly (readonly [path: string, password: string])[];
}

/** @returns whether the command that started this process was there to hear it */
export function report(message: StartReport): Promise<boolean> {
  return new Promise((resolve) => {
    if (!process.connected || process.send === undefined) resolve(false);
    else process.send(message, undefined, {}, (error) => resolve(error === null));
  });
}

/** What the command that started this process sends when it says so; it has the terminal and the environment. */
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
