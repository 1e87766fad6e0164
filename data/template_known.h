/* template_known.h: rows of template.c's table `known`, one per text of a model's own template.
 * {XXH3-128 high, low, bytes before the default system message, bytes after it, style} */
{0xa344e8c84fb0282dull, 0xda206a9e46a4ac01ull, 291, 0, "chatml"}, /* Axolotl's chatml */
{0x7a128e0473e4be90ull, 0x846f9032c2079ea2ull, 294, 0, "chatml"}, /* Axolotl's chatml (\n spelled) */
{0xb6117b577421a082ull, 0xc620ae2775866bfbull, 696, 0, "llama3"}, /* Axolotl's llama3 */
{0x1df25898f80353abull, 0xfffeb7d3cb62a8e5ull, 700, 0, "llama3"}, /* Axolotl's llama3 (\n spelled) */
{0x09facc0e4aa94318ull, 0x9799ad6e2dea0594ull, 389, 0, "llama3"}, /* Meta-Llama-3-8B-Instruct */
{0x11cc8d79e9815d5cull, 0x866fc8fa50da12feull, 393, 0, "llama3"}, /* Meta-Llama-3-8B-Instruct (\n spelled) */
{0x1c3ab7d0683618d9ull, 0xf6db71f9f4a22e96ull, 484, 0, "llama3"}, /* Axolotl's llama3, older */
{0xbe9c0be5b5a564ccull, 0x2b75d0c713ea9e6full, 488, 0, "llama3"}, /* Axolotl's llama3, older (\n spelled) */
{0x8b30bb763d138e69ull, 0x2c2e86beabccd2a4ull, 591, 0, "gemma"}, /* gemma-7b-it, Axolotl's gemma */
{0x3e5cd793cecbf962ull, 0x344edb205734f341ull, 594, 0, "gemma"}, /* gemma-7b-it, Axolotl's gemma (\n spelled) */
{0x31a8050c5cfb9badull, 0x0a14740e5eebc979ull, 477, 0, "mistral_v1"}, /* Axolotl's mistral_v1 */
{0x938a2dce36852bddull, 0xe95bb4382b1a2246ull, 475, 0, "mistral_v2v3"}, /* Axolotl's mistral_v2v3 */
{0xc668b480628d8d1eull, 0x6582e46e0f73b3fdull, 468, 0, "mistral_v3_tekken"}, /* Axolotl's mistral_v3_tekken */
{0xf395fc5daa794129ull, 0xa5d004210ebce758ull, 470, 0, "mixtral 8x7B"}, /* Mixtral-8x7B-Instruct-v0.1, Mistral-7B-Instruct-v0.2 */
{0x70bf874ad98f31f4ull, 0xb7f52373b11c60d7ull, 477, 0, "mistral 7B v0.1"}, /* Mistral-7B-Instruct-v0.1, first version */
{0x6aef58edf0d62df9ull, 0xf89cfc57f651ff3dull, 1057, 0, "mistral with a system message"}, /* Mistral-7B-Instruct-v0.1 */
{0x5f98aebbbeb4bf5dull, 0x8f4b7a76da3e3c3full, 428, 0, "alpaca"}, /* Axolotl's alpaca */
{0xf306ea640c1a12a6ull, 0x558028a28248d574ull, 435, 0, "alpaca"}, /* Axolotl's alpaca (\n spelled) */
{0x5261c270010022cfull, 0xb4abd11926045a2aull, 368, 0, "phi_3"}, /* Axolotl's phi_3 */
{0x7e69b51e13291273ull, 0xb0593151103106e6ull, 374, 0, "phi_3"}, /* Axolotl's phi_3 (\n spelled) */
{0xdb49fcd1297e8d6aull, 0xa03bf8c8773c52edull, 405, 0, "phi_35"}, /* Axolotl's phi_35 */
{0x1311390c0ecf8edeull, 0xdfad4b47637449fcull, 412, 0, "phi_35"}, /* Axolotl's phi_35 (\n spelled) */
{0x0850c77e9e7c37edull, 0x82fc89c04c54ba66ull, 407, 0, "phi 3"}, /* Phi-3-mini-4k-instruct */
{0x63b7f5a9d64cae9bull, 0x94a6330d43aa662aull, 414, 0, "phi 3"}, /* Phi-3-mini-4k-instruct (\n spelled) */
{0xf0a6a8278439fdb0ull, 0x56191e205a440263ull, 196, 0, "chatml"}, /* OpenHermes-2.5 and many others */
{0x577a7fce73f72e1eull, 0xe2be9fd6966bb5ebull, 199, 0, "chatml"}, /* OpenHermes-2.5 and many others (\n spelled) */
{0x5ae4edc1a6c08aa6ull, 0x1db34e9fc60441d8ull, 410, 0, "zephyr chat"}, /* zephyr-7b, TinyLlama-1.1B-Chat */
{0x214702a813e0fbedull, 0x0d6850922b3e41b2ull, 107, 193, "chatml with a system message"}, /* SmolLM2-135M-Instruct, Qwen2-7B-Instruct */
{0x831a64e534a96c24ull, 0xf7ae9931dce686d3ull, 108, 197, "chatml with a system message"}, /* SmolLM2-135M-Instruct, Qwen2-7B-Instruct (\n spelled) */
{0xe392aa06018503fdull, 0x2469c9508f79506eull, 2506, 0, "qwen_25"}, /* Qwen2.5-7B-Instruct */
{0x4457e3d12b367a86ull, 0x0283f874ff58d644ull, 4116, 0, "qwen3"}, /* Qwen3-0.6B */
{0x9ddcd6cd71f96dd7ull, 0x6ca7779b7730196aull, 4613, 0, "llama 3.1"}, /* Llama-3.1-8B-Instruct */
{0x573e1bcc8c56f178ull, 0xc3d57e38f5ff0756ull, 3826, 0, "llama 3.2"}, /* Llama-3.2-3B-Instruct */
{0xceaa31b1554ec3f5ull, 0xcd8aff863abd4554ull, 430, 0, "phi 3.5"}, /* Phi-3.5-mini-instruct */
{0x638e5c8b05f6278cull, 0xcae647ce0048756bull, 3944, 0, "mistral nemo"}, /* Mistral-Nemo-Instruct-2407 */
