// `imgfuse detach`: takes an attachment back and returns when the image is closed; exit code 0 means closed and clean.

import { printable, shellQuote } from '../../bytes/printable.ts';
import { EXIT_MOUNT, EXIT_OK, mountExitCode } from '../../errors/exit-codes.ts';
import { describeError, ImgfuseError } from '../../errors/index.ts';
import type { Attachment } from '../../guest/attachments.ts';
import { type ClosedImage, detach, interruptAttach } from '../../guest/detach.ts';
import { findAttachment } from '../../guest/find-attachment.ts';
import { closeImage } from '../attached-image.ts';
import type { Command } from '../command.ts';
import { complain, type OutputMode, print, printJson } from '../output.ts';

interface DetachArguments {
  readonly target: string;
  readonly output: OutputMode;
}

export const detachCommand: Command = {
  name: 'detach',
  summary: 'Take an attached image back, and wait until it is closed and clean',
  names: [{ name: 'target', description: 'the directory, the image, or the loop device' }],
  options: {},
  examples: [
    ['imgfuse detach /mnt/guest', 'unmounts the files, frees the loop device, closes the image'],
    ['imgfuse detach disk.qcow2', 'the same by the image'],
  ],
  epilogue: 'Exit status: 0 closed and clean; 1 usage or permission; 2 system error; 32 failed, or not clean.',
  run: detachTarget,
};

async function detachTarget({ target, output }: DetachArguments): Promise<number> {
  let attachment: Attachment | null = null;
  let closed: ClosedImage | null = null;
  let error: string | undefined;
  let exitCode = EXIT_OK;
  try {
    attachment = findAttachment(target);
    if (!(await interrupted(attachment))) closed = await detach(attachment, { closeImage, note: complain });
    else closed = { closed: true, clean: true, notes: [`the attach of process ${attachment.pid} is interrupted`] };
    error = closed?.error;
    if (closed === null && attachment.state === 'attached') {
      error =
        `what was left of ${attachment.image} is removed; its mount was gone already, so whether it was closed clean is not ` +
        `known: "imgfuse check ${shellQuote(attachment.image)}" tells`;
    }
    if (error !== undefined || closed?.clean === false) exitCode = EXIT_MOUNT;
  } catch (failure) {
    if (!(failure instanceof ImgfuseError)) throw failure;
    error = describeError(failure);
    exitCode = mountExitCode(failure);
  }
  const isClosed = exitCode === EXIT_OK || closed?.closed === true;
  if (output === 'json') {
    const { image, directory } = attachment ?? {};
    printJson({ image, directory, closed: isClosed, clean: exitCode === EXIT_OK, error, notes: closed?.notes ?? [] });
  }
  if (error !== undefined) complain(error);
  for (const note of closed?.notes ?? []) complain(note);
  if (exitCode === EXIT_OK && output === 'human') print(printable(`${attachment!.image} is closed and clean`));
  return exitCode;
}

/**
 * Deals with an attach that still runs: one that is at work is ended, and takes back what it has made; one that runs a program
 * detaches when the program ends. @returns whether nothing is left to do
 */
async function interrupted(attachment: Attachment): Promise<boolean> {
  const { alive, state, forProgram, pid, directory } = attachment;
  if (!alive) return false;
  if (state === 'attaching') return interruptAttach(attachment, complain);
  if (!forProgram) return false;
  const message = `process ${pid} runs a program in ${directory}, and detaches when that ends; end the program instead`;
  throw new ImgfuseError('busy', message, { path: directory });
}
