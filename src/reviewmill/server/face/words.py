"""What answers say beside the comments, in the languages of those who ask. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Words(NamedTuple):
    """What the answer says beside the comment, in one language."""

    labels: dict[str, str]
    reasons: dict[str, str]
    notes: dict[str, str]
    header: tuple[str, str, str, str, str]
    comments: str
    insufficient: str
    error: str
    deleted: str
    keywords: str
    comma: str
    colon: str
    review: str
    no_confidence: str
    more: str
    whole_file: str
    say: dict[str, str]


_SAY_ENGLISH: Final = {
    # files
    "file": "**{name}** · {rows:,} comments in the column {column}",
    "progress": "Analysing: ",
    "queued": "{count} other jobs come first · ",
    "model_away": "the model does not answer at the moment, the analysis waits and goes on by itself · ",
    "seconds": "about {count} s left",
    "minutes": "about {count} min left",
    "hours": "about {count} h left",
    "closing": "The service is being stopped. The analysis is not lost: it goes on when the service is back. "
    "Then ask again, for example: status.",
    "file_gone": "That file is not here (any more), or it is not yours. Please attach it again.",
    "failed": "**{name}** could not be analysed: {error} Send the message again to try once more.",
    "cancelled": "The analysis of **{name}** was cancelled. Send the message again to start anew.",
    "write_something": "Please write a word along with the file, for example: analyse.",
    "sources_not_read": "Attached web pages and notes are not analysed here. Paste the comments, one a line, or attach "
    "a file: CSV, TSV, TXT, JSONL or XLSX.",
    "no_scope": "Files need a key with the scope jobs or chat.",
    # summary
    "label": "Label",
    "count": "Count",
    "share": "Share",
    "mean": "Mean confidence {mean}",
    "to_review": "{count:,} for a person to look at",
    "uncertain": "Least certain",
    "result": "The whole result: ",
    "result_of": "All rows of this kind: ",
    "link_days": " (good for {days} days)",
    "ask_more": "You can go on with: {examples}.",
    "examples": "only negative · why is row {row} {label}? · summarise the complaints · export",
    # follow-ups
    "of": "**{shown:,} of {all:,} comments** · {what}",
    "all_of_them": "**{all:,} comments**",
    "none": "None of the {all:,} comments: {what}.",
    "first": "The first {shown:,} are shown.",
    "no_row": "There is no row {row}; there are rows 1 to {all:,}.",
    "row": "**Row {row}**",
    "row_deleted": "Row {row} was deleted.",
    "which_row": "Which row? There are rows 1 to {all:,}, for example: why is row {row} {label}?",
    "not_so": "It is not {claimed}, but {label}.",
    "why_model": "What the model says about it (it may be wrong; the label and the numbers above are measured):",
    "summary_of": "What the model says about {used:,} of them (it may be wrong; all counts here are ours):",
    "themes": "**What they are about**",
    "theme": "{keyword} ({count:,}), as in row {row}",
    "numbers_dropped": "Sentences with counts of its own were left out.",
    "any_kind": "of any kind",
    "no_keywords": "There are no keywords.",
    "nothing_said": "The model said nothing that could be shown.",
    "model_failed": "The model could not be asked just now. Ask again in a moment.",
    "no_label": "There is no label of that kind here. Labels: {labels}.",
    "deleted": "What was analysed here has been deleted.",
    "nothing_yet": "Nothing has been analysed in this chat yet.",
    "not_understood": "This is not taken for a comment, and not understood as a question about the {all:,} comments.",
    "help": "You can ask: {examples}, statistics, keywords, least certain, row {row}. "
    "To have a text analysed as a comment, put it in quotation marks over several lines, or write > before it.",
    "needs_review": "for a person to look at",
    "about": "about {text}",
    # failures
    "busy": "So many comments wait for the model that no more can be taken. Try again in a moment.",
    "rate": "This chat has reached its limit of comments.",
    "unreachable": "The model cannot be reached at the moment. What was said so far is kept; try again in a moment.",
    "timeout": "The model took too long to answer. Try again.",
    "store": "The service's database cannot be used at the moment. Try again in a moment.",
    "mistake": "This message cannot be answered as it is.",
    "broken": "Something went wrong. Try again; if it stays so, tell whoever runs the service.",
}
_SAY_CHINESE: Final = {
    "file": "**{name}** · {rows:,} 条评论，评论列为 {column}",
    "progress": "正在分析：",
    "queued": "前面还有 {count} 个任务 · ",
    "model_away": "模型暂时没有应答，分析会等待并自动继续 · ",
    "seconds": "大约还需 {count} 秒",
    "minutes": "大约还需 {count} 分钟",
    "hours": "大约还需 {count} 小时",
    "closing": "服务正在停止。分析不会丢失，服务恢复后会自动继续；到时请再问一次，例如：进度。",
    "file_gone": "这个文件（已经）不在这里，或者不是您的文件。请重新添加。",
    "failed": "**{name}** 没能分析完：{error} 再发一次消息可以重试。",
    "cancelled": "**{name}** 的分析已取消。再发一次消息可以重新开始。",
    "write_something": "请在文件旁边写一句话，例如：请分析。",
    "sources_not_read": "这里不分析附加的网页和笔记。请直接粘贴评论，每行一条，"
    "或者添加文件：CSV、TSV、TXT、JSONL 或 XLSX。",
    "no_scope": "分析文件需要带有 jobs 或 chat 权限的密钥。",
    "label": "标签",
    "count": "条数",
    "share": "占比",
    "mean": "平均置信度 {mean}",
    "to_review": "建议人工复核 {count:,} 条",
    "uncertain": "最没有把握的",
    "result": "完整结果：",
    "result_of": "这一类的全部评论：",
    "link_days": "（{days} 天内有效）",
    "ask_more": "可以接着问：{examples}。",
    "examples": "只看差评 · 为什么第 {row} 条是{label} · 总结差评 · 导出",
    "of": "**{all:,} 条评论中的 {shown:,} 条** · {what}",
    "all_of_them": "**{all:,} 条评论**",
    "none": "{all:,} 条评论里没有：{what}。",
    "first": "只显示前 {shown:,} 条。",
    "no_row": "没有第 {row} 条；一共有 {all:,} 条。",
    "row": "**第 {row} 条**",
    "row_deleted": "第 {row} 条已删除。",
    "which_row": "是哪一条？一共有 {all:,} 条，例如：为什么第 {row} 条是{label}？",
    "not_so": "它不是{claimed}，而是{label}。",
    "why_model": "模型的解释（可能有误；上面的标签和数字是测出来的）：",
    "summary_of": "模型读了其中 {used:,} 条后的说法（可能有误；这里所有的条数都由我们统计）：",
    "themes": "**提到最多的**",
    "theme": "{keyword}（{count:,}），如第 {row} 条",
    "numbers_dropped": "模型自己数的句子没有显示。",
    "any_kind": "各类",
    "no_keywords": "没有关键词。",
    "nothing_said": "模型没有说出可以显示的内容。",
    "model_failed": "暂时问不到模型，请稍后再问。",
    "no_label": "这里没有这种标签。标签有：{labels}。",
    "deleted": "这里分析过的内容已经删除。",
    "nothing_yet": "这个对话里还没有分析过评论。",
    "not_understood": "这句话不像评论，也没看懂是在问这 {all:,} 条评论的什么。",
    "help": "可以问：{examples}、统计、关键词、最不确定的、第 {row} 条。"
    "要把一段话当作评论来分析，请在前面写 >，或者用引号把多行括起来。",
    "needs_review": "建议人工复核",
    "about": "提到“{text}”",
    "busy": "排队等模型的评论太多，暂时不能再收。请稍后再试。",
    "rate": "这里的评论数量暂时到了上限。",
    "unreachable": "暂时连不上模型。之前的对话都还在，请稍后再试。",
    "timeout": "模型太久没有应答，请再试一次。",
    "store": "服务的数据库暂时不能用，请稍后再试。",
    "mistake": "这条消息不能这样回答。",
    "broken": "出了问题，请再试一次；如果还是这样，请告诉管理这个服务的人。",
}

ENGLISH: Final = Words(
    labels={},
    reasons={
        "empty": "the comment is empty",
        "no_words": "the comment holds no words",
        "default_text": "the platform's default text",
    },
    notes={
        "order_dropped": "The comment tells the reader which label to give; the model was not shown that part.",
        "shortened": "The comment is long: its middle was not read.",
        "low_label_mass": "The model hardly meant any of the labels.",
        "redacted": "Personal data was masked before the model read the comment.",
    },
    header=("#", "Comment", "Label", "Confidence", "Keywords"),
    comments="comments",
    insufficient="nothing to judge",
    error="error",
    deleted="deleted",
    keywords="Keywords",
    comma=", ",
    colon=": ",
    review="A person should look at this.",
    no_confidence="the model's server gives no probabilities",
    more="Rows 1 to {shown:,} of {all:,} are shown.",
    whole_file="The whole file",
    say=_SAY_ENGLISH,
)
CHINESE: Final = Words(
    labels={
        "positive": "正面",
        "neutral": "中性",
        "negative": "负面",
        "joy": "喜悦",
        "anger": "愤怒",
        "sadness": "悲伤",
        "fear": "恐惧",
        "surprise": "惊讶",
        "disgust": "厌恶",
        "none": "没有情绪",
    },
    reasons={"empty": "评论为空", "no_words": "评论没有文字", "default_text": "平台的默认文字"},
    notes={
        "order_dropped": "评论里有指使读者怎样判断的话，这部分没有给模型看。",
        "shortened": "评论很长，中间部分没有读。",
        "low_label_mass": "哪个标签模型都没有把握。",
        "redacted": "模型读到评论之前，个人信息已经遮盖。",
    },
    header=("#", "评论", "标签", "置信度", "关键词"),
    comments="条评论",
    insufficient="无可判断",
    error="出错",
    deleted="已删除",
    keywords="关键词",
    comma="、",
    colon="：",
    review="建议人工复核。",
    no_confidence="模型的服务器不给概率",
    more="只显示前 {shown:,} 条，共 {all:,} 条。",
    whole_file="完整文件",
    say=_SAY_CHINESE,
)


_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_HANGUL: Final = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_LATIN: Final = re.compile(r"[A-Za-z]{2}")


def words_of(text: str, otherwise: Words = ENGLISH) -> Words:
    """The language in which to answer a text: Chinese if it is Chinese, English if it is anything else with words.

    Args:
        text: what somebody wrote.
        otherwise: the language if the text holds no words.
    """
    some = text[:2000]
    if _HAN.search(some) and not _KANA_HANGUL.search(some):
        return CHINESE
    return ENGLISH if _LATIN.search(some) or _KANA_HANGUL.search(some) else otherwise
