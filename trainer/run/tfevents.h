/* tfevents.h: TensorBoard's event file: records of [length u64][masked crc32c of it][protobuf
 * Event] [masked crc32c of that]; mask = rotate right by 15, plus 0xa282ead8 (tensorflow's
 * core/lib/io/record_writer). First event: file_version "brain.Event:2". One write per record.
 */
#ifndef NIBBLE_TRAINER_RUN_TFEVENTS_H
#define NIBBLE_TRAINER_RUN_TFEVENTS_H

#include "common/file.h"

status tfevents_begin(file *f, double wall_time);
/* tag: at most 200 bytes */
status tfevents_scalar(file *f, double wall_time, int64_t step, const char *tag, float value);

uint32_t crc32c(const void *data, size_t bytes);

#endif
