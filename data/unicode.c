/* unicode.c: see unicode.h. Most classes come from utf8proc; the tables hold what is
 * different. */
#include "data/unicode.h"

#include <pthread.h>
#include <string.h>
#include <utf8proc.h>

typedef struct range {
    uint32_t first, last;
} range;

/* Short names for the table. */
enum {
    LU = UTF8PROC_CATEGORY_LU,
    LL = UTF8PROC_CATEGORY_LL,
    LM = UTF8PROC_CATEGORY_LM,
    LO = UTF8PROC_CATEGORY_LO,
    MN = UTF8PROC_CATEGORY_MN,
    MC = UTF8PROC_CATEGORY_MC,
    ND = UTF8PROC_CATEGORY_ND,
    NO = UTF8PROC_CATEGORY_NO,
    PD = UTF8PROC_CATEGORY_PD,
    PO = UTF8PROC_CATEGORY_PO,
    SM = UTF8PROC_CATEGORY_SM,
    SO = UTF8PROC_CATEGORY_SO,
    CF = UTF8PROC_CATEGORY_CF,
};

/* Given a category, or another one, between Unicode 14 and 16. */
const unicode_range unicode_newer[] = {
    {0x897, 0x897, MN},     {0xCF3, 0xCF3, MC},     {0xECE, 0xECE, MN},
    {0x1B4E, 0x1B4F, PO},   {0x1B7F, 0x1B7F, PO},   {0x1C89, 0x1C89, LU},
    {0x1C8A, 0x1C8A, LL},   {0x2427, 0x2429, SO},   {0x2FFC, 0x2FFF, SO},
    {0x31E4, 0x31E5, SO},   {0x31EF, 0x31EF, SO},   {0xA7CB, 0xA7CC, LU},
    {0xA7CD, 0xA7CD, LL},   {0xA7DA, 0xA7DA, LU},   {0xA7DB, 0xA7DB, LL},
    {0xA7DC, 0xA7DC, LU},   {0x105C0, 0x105F3, LO}, {0x10D40, 0x10D49, ND},
    {0x10D4A, 0x10D4D, LO}, {0x10D4E, 0x10D4E, LM}, {0x10D4F, 0x10D4F, LO},
    {0x10D50, 0x10D65, LU}, {0x10D69, 0x10D6D, MN}, {0x10D6E, 0x10D6E, PD},
    {0x10D6F, 0x10D6F, LM}, {0x10D70, 0x10D85, LL}, {0x10D8E, 0x10D8F, SM},
    {0x10EC2, 0x10EC4, LO}, {0x10EFC, 0x10EFF, MN}, {0x1123F, 0x11240, LO},
    {0x11241, 0x11241, MN}, {0x11380, 0x11389, LO}, {0x1138B, 0x1138B, LO},
    {0x1138E, 0x1138E, LO}, {0x11390, 0x113B5, LO}, {0x113B7, 0x113B7, LO},
    {0x113B8, 0x113BA, MC}, {0x113BB, 0x113C0, MN}, {0x113C2, 0x113C2, MC},
    {0x113C5, 0x113C5, MC}, {0x113C7, 0x113CA, MC}, {0x113CC, 0x113CD, MC},
    {0x113CE, 0x113CE, MN}, {0x113CF, 0x113CF, MC}, {0x113D0, 0x113D0, MN},
    {0x113D1, 0x113D1, LO}, {0x113D2, 0x113D2, MN}, {0x113D3, 0x113D3, LO},
    {0x113D4, 0x113D5, PO}, {0x113D7, 0x113D8, PO}, {0x113E1, 0x113E2, MN},
    {0x116D0, 0x116E3, ND}, {0x1171E, 0x1171E, MC}, {0x11B00, 0x11B09, PO},
    {0x11BC0, 0x11BE0, LO}, {0x11BE1, 0x11BE1, PO}, {0x11BF0, 0x11BF9, ND},
    {0x11F00, 0x11F01, MN}, {0x11F02, 0x11F02, LO}, {0x11F03, 0x11F03, MC},
    {0x11F04, 0x11F10, LO}, {0x11F12, 0x11F33, LO}, {0x11F34, 0x11F35, MC},
    {0x11F36, 0x11F3A, MN}, {0x11F3E, 0x11F3F, MC}, {0x11F40, 0x11F40, MN},
    {0x11F41, 0x11F41, MC}, {0x11F42, 0x11F42, MN}, {0x11F43, 0x11F4F, PO},
    {0x11F50, 0x11F59, ND}, {0x11F5A, 0x11F5A, MN}, {0x1342F, 0x1342F, LO},
    {0x13439, 0x1343F, CF}, {0x13440, 0x13440, MN}, {0x13441, 0x13446, LO},
    {0x13447, 0x13455, MN}, {0x13460, 0x143FA, LO}, {0x16100, 0x1611D, LO},
    {0x1611E, 0x16129, MN}, {0x1612A, 0x1612C, MC}, {0x1612D, 0x1612F, MN},
    {0x16130, 0x16139, ND}, {0x16D40, 0x16D42, LM}, {0x16D43, 0x16D6A, LO},
    {0x16D6B, 0x16D6C, LM}, {0x16D6D, 0x16D6F, PO}, {0x16D70, 0x16D79, ND},
    {0x18CFF, 0x18CFF, LO}, {0x1B132, 0x1B132, LO}, {0x1B155, 0x1B155, LO},
    {0x1CC00, 0x1CCEF, SO}, {0x1CCF0, 0x1CCF9, ND}, {0x1CD00, 0x1CEB3, SO},
    {0x1D2C0, 0x1D2D3, NO}, {0x1DF25, 0x1DF2A, LL}, {0x1E030, 0x1E06D, LM},
    {0x1E08F, 0x1E08F, MN}, {0x1E4D0, 0x1E4EA, LO}, {0x1E4EB, 0x1E4EB, LM},
    {0x1E4EC, 0x1E4EF, MN}, {0x1E4F0, 0x1E4F9, ND}, {0x1E5D0, 0x1E5ED, LO},
    {0x1E5EE, 0x1E5EF, MN}, {0x1E5F0, 0x1E5F0, LO}, {0x1E5F1, 0x1E5FA, ND},
    {0x1E5FF, 0x1E5FF, PO}, {0x1F6DC, 0x1F6DC, SO}, {0x1F774, 0x1F776, SO},
    {0x1F77B, 0x1F77F, SO}, {0x1F7D9, 0x1F7D9, SO}, {0x1F8B2, 0x1F8BB, SO},
    {0x1F8C0, 0x1F8C1, SO}, {0x1FA75, 0x1FA77, SO}, {0x1FA87, 0x1FA89, SO},
    {0x1FA8F, 0x1FA8F, SO}, {0x1FAAD, 0x1FAAF, SO}, {0x1FABB, 0x1FABF, SO},
    {0x1FAC6, 0x1FAC6, SO}, {0x1FACE, 0x1FACF, SO}, {0x1FADA, 0x1FADC, SO},
    {0x1FADF, 0x1FADF, SO}, {0x1FAE8, 0x1FAE9, SO}, {0x1FAF7, 0x1FAF8, SO},
    {0x1FBCB, 0x1FBEF, SO}, {0x2B739, 0x2B739, LO}, {0x2EBF0, 0x2EE5D, LO},
    {0x31350, 0x323AF, LO},
};
const size_t unicode_newer_count = sizeof unicode_newer / sizeof *unicode_newer;

/* Characters of category P that the crate unicode_categories 0.1.1 does not know. */
static const range not_punctuation[] = {
    {0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},     {0xC77, 0xC77},
    {0xC84, 0xC84},     {0x1B4E, 0x1B4F},   {0x1B7D, 0x1B7F},   {0x2E43, 0x2E4F},
    {0x2E52, 0x2E5D},   {0x10D6E, 0x10D6E}, {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59},
    {0x10F86, 0x10F89}, {0x113D4, 0x113D5}, {0x113D7, 0x113D8}, {0x1144B, 0x1144F},
    {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C}, {0x116B9, 0x116B9},
    {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
    {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11B00, 0x11B09}, {0x11BE1, 0x11BE1},
    {0x11C41, 0x11C45}, {0x11C70, 0x11C71}, {0x11EF7, 0x11EF8}, {0x11F43, 0x11F4F},
    {0x11FFF, 0x11FFF}, {0x12FF1, 0x12FF2}, {0x16D6D, 0x16D6F}, {0x16E97, 0x16E9A},
    {0x16FE2, 0x16FE2}, {0x1E5FF, 0x1E5FF}, {0x1E95E, 0x1E95F},
};

/* Characters that take part in normalization since Unicode 10 to 15 (and one second half,
 * U+11930); those that came later are in unicode_newer. */
static const range inert[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},
    {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785}, {0x10787, 0x107B0},
    {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x16FF0, 0x16FF1}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
};

/* Digits of Unicode 17, which Rust knows. */
static const range newer_digits[] = {{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}};

/* Lower-case letters that utf8proc 2.8 does not map: first, last, distance. */
static const struct {
    uint32_t first, last, plus;
} newer_lower[] = {
    {0x1C89, 0x1C89, 1}, {0xA7CC, 0xA7CC, 1}, {0xA7CE, 0xA7CE, 1},    {0xA7D2, 0xA7D2, 1},
    {0xA7D4, 0xA7D4, 1}, {0xA7DA, 0xA7DA, 1}, {0x10D50, 0x10D65, 32}, {0x16EA0, 0x16EB8, 27},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static bool in_ranges(const range *ranges, size_t count, uint32_t code) {
    for (size_t i = 0; i < count; i++)
        if (code >= ranges[i].first && code <= ranges[i].last) return true;
    return false;
}

static const unicode_range *newer(uint32_t code) {
    size_t low = 0, high = unicode_newer_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > unicode_newer[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < unicode_newer_count && code >= unicode_newer[low].first ? &unicode_newer[low]
                                                                         : NULL;
}

static int category(uint32_t code) {
    const unicode_range *r = newer(code);
    return r ? r->category : (int)utf8proc_category((utf8proc_int32_t)code);
}

static bool white_space(uint32_t code) {
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

enum unicode_class unicode_class_rare(uint32_t code) {
    if (code == '\r' || code == '\n') return CLASS_NEWLINE;
    if (white_space(code)) return CLASS_SPACE;
    switch (category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return CLASS_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return CLASS_NUMBER;
    default:
        return CLASS_OTHER;
    }
}

uint8_t unicode_classes[UNICODE_TABLE];

static void fill(void) {
    for (uint32_t code = 0; code < UNICODE_TABLE; code++)
        unicode_classes[code] = (uint8_t)unicode_class_rare(code);
}

void unicode_setup(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
}

bool unicode_is_numeric(uint32_t code) {
    return unicode_class_of(code) == CLASS_NUMBER ||
           in_ranges(newer_digits, COUNT(newer_digits), code);
}

/* Alphabetic, marks, decimal digits, connectors, joiners: what is not a letter by category is
 * the circled and squared Latin letters. */
bool unicode_is_word(uint32_t code) {
    switch (category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return code == 0x200C || code == 0x200D || (code >= 0x24B6 && code <= 0x24E9) ||
               (code >= 0x1F130 && code <= 0x1F149) || (code >= 0x1F150 && code <= 0x1F169) ||
               (code >= 0x1F170 && code <= 0x1F189);
    }
}

bool unicode_is_punctuation(uint32_t code) {
    if (code < 0x80) return code > 0x20 && code < 0x7F && unicode_classes[code] == CLASS_OTHER;
    if (code == 0x111C9 || code == 0x166D) return true; /* they were, in Unicode 8 */
    switch (category(code)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return !in_ranges(not_punctuation, COUNT(not_punctuation), code);
    default:
        return false;
    }
}

int unicode_lower(uint32_t code, uint32_t out[2]) {
    if (code == 0x130) {
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)code);
    if (code == 0xA7CB) out[0] = 0x264;
    if (code == 0xA7DC) out[0] = 0x19B;
    for (size_t i = 0; i < COUNT(newer_lower); i++)
        if (code >= newer_lower[i].first && code <= newer_lower[i].last)
            out[0] = code + newer_lower[i].plus;
    return 1;
}

bool unicode_is_inert(uint32_t code) {
    return code >= inert[0].first && (newer(code) || in_ranges(inert, COUNT(inert), code));
}

size_t utf8_put(uint32_t code, char *out) {
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)code, (utf8proc_uint8_t *)out);
}

/* The length of the valid character at `u`, or minus the length of the ill-formed piece. */
static int character(const unsigned char *u, size_t left) {
    if (u[0] < 0x80) return 1;
    if (u[0] < 0xC2 || u[0] > 0xF4) return -1;
    int length = u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : 4;
    unsigned char low = u[0] == 0xE0 ? 0xA0 : u[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = u[0] == 0xED ? 0x9F : u[0] == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < length; i++, low = 0x80, high = 0xBF)
        if ((size_t)i >= left || u[i] < low || u[i] > high) return -i;
    return length;
}

size_t utf8_valid(const char *text, size_t bytes) {
    size_t i = 0;
    while (i < bytes) {
        uint64_t word;
        if (bytes - i >= sizeof word) { /* eight ASCII bytes at once */
            memcpy(&word, text + i, sizeof word);
            if (!(word & 0x8080808080808080u)) {
                i += sizeof word;
                continue;
            }
        }
        int length = character((const unsigned char *)text + i, bytes - i);
        if (length < 0) return i;
        i += (size_t)length;
    }
    return bytes;
}

size_t utf8_bad(const char *text, size_t bytes) {
    int length = character((const unsigned char *)text, bytes);
    return length < 0 ? (size_t)-length : 1;
}
