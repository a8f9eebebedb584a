// sd_notify(3): tells a service manager (Type=notify) that the mount answers, and that it is ending.

import { describeError } from '../errors/index.ts';
import { sendDatagram } from '../native/index.ts';
import type { Log } from './log.ts';

export function notifyServiceManager(state: string, log: Log): void {
  const socket = process.env['NOTIFY_SOCKET'];
  if (socket === undefined || socket === '') return;
  try {
    sendDatagram(socket, Buffer.from(state));
  } catch (error) {
    log('warning', `the service manager cannot be told ${state.split('\n')[0]}: ${describeError(error)}`);
  }
}
