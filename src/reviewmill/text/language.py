"""Tell the language of a comment: by its script where the script decides, else by py3langid's statistics."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

from reviewmill.text.clean import MENTION_PLACEHOLDER, URL_PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Callable

# Simplified and traditional forms, in pairs. Left out: forms that both ways of writing use (后 里 面 干 只 台 云 ...).
_PAIRS: Final = """
爱愛 碍礙 袄襖 罢罷 坝壩 摆擺 败敗 颁頒 办辦 绊絆 帮幫 绑綁 镑鎊 谤謗 剥剝 饱飽 宝寶 报報 鲍鮑 辈輩 贝貝 备備 惫憊 绷繃
笔筆 币幣 闭閉 边邊 编編 贬貶 变變 辩辯 标標 鳖鱉 别別 宾賓 饼餅 拨撥 钵缽 铂鉑 驳駁 补補 财財 参參 残殘 惭慚 惨慘 灿燦
仓倉 苍蒼 舱艙 测測 层層 诧詫 搀攙 掺摻 馋饞 缠纏 产產 颤顫 场場 尝嘗 长長 偿償 肠腸 厂廠 畅暢 钞鈔 车車 彻徹 尘塵 陈陳
衬襯 称稱 惩懲 诚誠 骋騁 迟遲 驰馳 耻恥 齿齒 宠寵 冲衝 虫蟲 畴疇 踌躊 筹籌 绸綢 丑醜 橱櫥 厨廚 锄鋤 础礎 储儲 触觸 处處
传傳 疮瘡 闯闖 创創 锤錘 纯純 辞辭 词詞 赐賜 聪聰 葱蔥 从從 丛叢 凑湊 窜竄 错錯 达達 带帶 贷貸 担擔 单單 胆膽 惮憚 诞誕
弹彈 当當 挡擋 党黨 荡蕩 档檔 导導 岛島 祷禱 灯燈 邓鄧 敌敵 涤滌 递遞 缔締 颠顛 点點 垫墊 电電 淀澱 钓釣 调調 谍諜 叠疊
顶頂 钉釘 订訂 东東 动動 冻凍 栋棟 独獨 读讀 赌賭 镀鍍 锻鍛 断斷 缎緞 队隊 对對 吨噸 顿頓 钝鈍 夺奪 堕墮 鹅鵝 额額 讹訛
恶惡 饿餓 儿兒 尔爾 饵餌 贰貳 发發 罚罰 阀閥 烦煩 贩販 饭飯 访訪 纺紡 飞飛 诽誹 废廢 费費 纷紛 坟墳 奋奮 愤憤 粪糞 丰豐
枫楓 锋鋒 风風 疯瘋 冯馮 缝縫 讽諷 凤鳳 肤膚 辐輻 抚撫 辅輔 赋賦 复復 负負 妇婦 该該 钙鈣 盖蓋 赶趕 秆稈 赣贛 冈岡 刚剛
钢鋼 纲綱 岗崗 搁擱 鸽鴿 阁閣 铬鉻 个個 给給 龚龔 宫宮 巩鞏 贡貢 钩鉤 沟溝 构構 购購 够夠 顾顧 关關 观觀 馆館 惯慣 贯貫
广廣 规規 归歸 龟龜 闺閨 轨軌 诡詭 贵貴 刽劊 辊輥 锅鍋 国國 过過 骇駭 韩韓 汉漢 号號 阂閡 鹤鶴 贺賀 横橫 轰轟 鸿鴻 红紅
壶壺 护護 沪滬 户戶 哗嘩 华華 画畫 划劃 话話 怀懷 坏壞 欢歡 环環 还還 缓緩 换換 唤喚 痪瘓 焕煥 涣渙 黄黃 谎謊 挥揮 辉輝
毁毀 贿賄 秽穢 会會 烩燴 汇匯 讳諱 诲誨 绘繪 荤葷 浑渾 获獲 货貨 祸禍 击擊 机機 积積 饥飢 讥譏 鸡雞 绩績 缉緝 极極 辑輯
级級 挤擠 几幾 蓟薊 剂劑 济濟 计計 记記 际際 继繼 纪紀 夹夾 荚莢 颊頰 贾賈 钾鉀 价價 驾駕 歼殲 监監 坚堅 间間 艰艱 缄緘
检檢 碱鹼 拣揀 捡撿 简簡 俭儉 减減 荐薦 贱賤 见見 键鍵 舰艦 剑劍 饯餞 渐漸 溅濺 涧澗 将將 浆漿 蒋蔣 桨槳 奖獎 讲講 酱醬
胶膠 浇澆 骄驕 娇嬌 搅攪 铰鉸 矫矯 侥僥 脚腳 饺餃 缴繳 绞絞 轿轎 较較 阶階 节節 洁潔 结結 诫誡 届屆 紧緊 锦錦 仅僅 谨謹
进進 晋晉 烬燼 尽盡 劲勁 茎莖 惊驚 经經 颈頸 静靜 镜鏡 径徑 痉痙 竞競 净淨 纠糾 旧舊 驹駒 举舉 据據 锯鋸 惧懼 剧劇 鹃鵑
绢絹 觉覺 决決 诀訣 绝絕 钧鈞 军軍 骏駿 开開 凯凱 颗顆 壳殼 课課 垦墾 恳懇 抠摳 库庫 裤褲 夸誇 块塊 侩儈 宽寬 矿礦 旷曠
况況 亏虧 窥窺 馈饋 溃潰 扩擴 阔闊 蜡蠟 腊臘 莱萊 来來 赖賴 蓝藍 栏欄 拦攔 篮籃 兰蘭 澜瀾 览覽 揽攬 懒懶 缆纜 烂爛 滥濫
捞撈 劳勞 涝澇 乐樂 镭鐳 垒壘 类類 泪淚 篱籬 离離 鲤鯉 礼禮 丽麗 厉厲 励勵 砾礫 历歷 沥瀝 隶隸 俩倆 联聯 莲蓮 连連 镰鐮
怜憐 涟漣 帘簾 敛斂 脸臉 链鏈 恋戀 炼煉 练練 粮糧 凉涼 两兩 辆輛 谅諒 疗療 辽遼 镣鐐 猎獵 临臨 邻鄰 鳞鱗 赁賃 龄齡 铃鈴
灵靈 岭嶺 领領 馏餾 刘劉 龙龍 聋聾 咙嚨 笼籠 垄壟 拢攏 陇隴 楼樓 娄婁 搂摟 篓簍 芦蘆 卢盧 颅顱 庐廬 炉爐 掳擄 卤滷 虏虜
鲁魯 赂賂 录錄 陆陸 驴驢 吕呂 铝鋁 侣侶 屡屢 缕縷 虑慮 滤濾 绿綠 峦巒 挛攣 孪孿 滦灤 乱亂 抡掄 轮輪 伦倫 仑侖 沦淪 纶綸
论論 萝蘿 罗羅 逻邏 锣鑼 箩籮 骡騾 骆駱 络絡 妈媽 玛瑪 码碼 蚂螞 马馬 骂罵 吗嗎 买買 麦麥 卖賣 迈邁 脉脈 瞒瞞 馒饅 蛮蠻
满滿 谩謾 猫貓 锚錨 铆鉚 贸貿 么麼 门門 闷悶 们們 锰錳 梦夢 谜謎 弥彌 觅覓 绵綿 缅緬 庙廟 灭滅 悯憫 闽閩 鸣鳴 铭銘 谬謬
谋謀 亩畝 钠鈉 纳納 难難 挠撓 脑腦 恼惱 闹鬧 馁餒 内內 拟擬 腻膩 撵攆 酿釀 鸟鳥 聂聶 镊鑷 镍鎳 柠檸 狞獰 宁寧 拧擰 泞濘
钮鈕 纽紐 脓膿 浓濃 农農 疟瘧 诺諾 欧歐 鸥鷗 殴毆 呕嘔 盘盤 庞龐 赔賠 喷噴 鹏鵬 骗騙 飘飄 频頻 贫貧 苹蘋 凭憑 评評 泼潑
颇頗 扑撲 铺鋪 谱譜 脐臍 齐齊 骑騎 岂豈 启啟 气氣 弃棄 讫訖 牵牽 钎釺 铅鉛 迁遷 谦謙 钱錢 钳鉗 潜潛 浅淺 谴譴 枪槍 呛嗆
墙牆 蔷薔 强強 抢搶 锹鍬 桥橋 乔喬 侨僑 翘翹 窍竅 窃竊 钦欽 亲親 轻輕 氢氫 倾傾 顷頃 请請 庆慶 琼瓊 穷窮 趋趨 区區 躯軀
驱驅 龋齲 颧顴 权權 劝勸 却卻 鹊鵲 让讓 饶饒 扰擾 绕繞 热熱 韧韌 认認 纫紉 荣榮 绒絨 软軟 锐銳 闰閏 润潤 洒灑 萨薩 鳃鰓
赛賽 伞傘 丧喪 骚騷 扫掃 涩澀 杀殺 纱紗 筛篩 晒曬 闪閃 陕陝 赡贍 缮繕 伤傷 赏賞 烧燒 绍紹 赊賒 摄攝 慑懾 设設 绅紳 审審
婶嬸 肾腎 渗滲 声聲 绳繩 胜勝 圣聖 师師 狮獅 湿濕 诗詩 时時 蚀蝕 实實 识識 驶駛 势勢 适適 释釋 饰飾 视視 试試 寿壽 兽獸
枢樞 输輸 书書 赎贖 属屬 术術 树樹 竖豎 数數 帅帥 双雙 谁誰 税稅 顺順 说說 硕碩 烁爍 丝絲 饲飼 耸聳 怂慫 颂頌 讼訟 诵誦
擞擻 苏蘇 诉訴 肃肅 虽雖 随隨 绥綏 岁歲 孙孫 损損 笋筍 缩縮 琐瑣 锁鎖 态態 摊攤 贪貪 瘫癱 滩灘 坛壇 谭譚 谈談 叹嘆 汤湯
烫燙 涛濤 绦絛 讨討 腾騰 誊謄 锑銻 题題 体體 条條 贴貼 铁鐵 厅廳 听聽 烃烴 铜銅 统統 头頭 秃禿 图圖 涂塗 团團 颓頹 蜕蛻
脱脫 鸵鴕 驮馱 驼駝 椭橢 洼窪 袜襪 弯彎 湾灣 顽頑 万萬 网網 韦韋 违違 围圍 为為 潍濰 维維 苇葦 伟偉 伪偽 纬緯 谓謂 卫衛
温溫 闻聞 纹紋 稳穩 问問 瓮甕 挝撾 蜗蝸 涡渦 窝窩 卧臥 呜嗚 钨鎢 乌烏 诬誣 无無 芜蕪 吴吳 坞塢 雾霧 务務 误誤 锡錫 牺犧
袭襲 习習 铣銑 戏戲 细細 虾蝦 辖轄 峡峽 侠俠 狭狹 厦廈 吓嚇 鲜鮮 纤纖 咸鹹 贤賢 衔銜 闲閒 显顯 险險 现現 献獻 县縣 馅餡
羡羨 宪憲 线線 厢廂 镶鑲 乡鄉 详詳 响響 项項 萧蕭 销銷 晓曉 啸嘯 协協 挟挾 携攜 胁脅 谐諧 写寫 泻瀉 谢謝 锌鋅 衅釁 兴興
汹洶 锈鏽 绣繡 虚虛 嘘噓 须須 许許 绪緒 续續 轩軒 悬懸 选選 癣癬 绚絢 学學 勋勳 询詢 寻尋 驯馴 训訓 讯訊 逊遜 压壓 鸦鴉
鸭鴨 哑啞 亚亞 讶訝 烟煙 盐鹽 严嚴 颜顏 阎閻 艳艷 厌厭 砚硯 彦彥 谚諺 验驗 鸯鴦 杨楊 扬揚 疡瘍 阳陽 痒癢 养養 样樣 瑶瑤
摇搖 尧堯 遥遙 窑窯 谣謠 药藥 爷爺 页頁 业業 叶葉 医醫 铱銥 颐頤 遗遺 仪儀 蚁蟻 艺藝 亿億 忆憶 义義 诣詣 议議 谊誼 译譯
异異 绎繹 荫蔭 阴陰 银銀 饮飲 隐隱 樱櫻 婴嬰 鹰鷹 应應 缨纓 莹瑩 萤螢 营營 荧熒 蝇蠅 赢贏 颖穎 哟喲 拥擁 佣傭 痈癰 踊踴
咏詠 优優 忧憂 邮郵 铀鈾 犹猶 诱誘 舆輿 鱼魚 渔漁 娱娛 与與 屿嶼 语語 狱獄 誉譽 预預 驭馭 鸳鴛 渊淵 辕轅 园園 员員 圆圓
缘緣 远遠 愿願 约約 跃躍 钥鑰 粤粵 悦悅 阅閱 郧鄖 匀勻 陨隕 运運 蕴蘊 酝醞 晕暈 韵韻 杂雜 灾災 载載 攒攢 暂暫 赞讚 赃贓
脏髒 凿鑿 枣棗 责責 择擇 则則 泽澤 贼賊 赠贈 轧軋 铡鍘 闸閘 诈詐 斋齋 债債 毡氈 盏盞 斩斬 辗輾 崭嶄 栈棧 战戰 绽綻 张張
涨漲 帐帳 账賬 胀脹 赵趙 蛰蟄 辙轍 锗鍺 这這 贞貞 针針 侦偵 诊診 镇鎮 阵陣 挣掙 睁睜 狰猙 争爭 帧幀 郑鄭 证證 织織 职職
执執 纸紙 挚摯 掷擲 帜幟 质質 滞滯 钟鐘 终終 种種 肿腫 众眾 诌謅 轴軸 皱皺 昼晝 骤驟 猪豬 诸諸 诛誅 烛燭 瞩矚 嘱囑 贮貯
铸鑄 筑築 驻駐 专專 砖磚 转轉 赚賺 桩樁 庄莊 装裝 妆妝 壮壯 状狀 锥錐 赘贅 坠墜 缀綴 谆諄 浊濁 兹茲 资資 渍漬 踪蹤 综綜
总總 纵縱 邹鄒 诅詛 组組 钻鑽 没沒 吃喫 并並 哝噥 啰囉 喽嘍 馄餛 饨飩 蚝蠔 鲷鯛 鳗鰻 鲈鱸 鲑鮭 鳕鱈 熏燻 焖燜 炖燉 酥穌
"""
# Pairs of which only one form tells the two ways apart.
_BOTH_USE: Final = frozenset("吃并酥穌与么钟丑划冲几据咸熏炖别佣凉叶御虫历汇胜签须")
_PAIR_LIST: Final = tuple((pair[0], pair[1]) for pair in _PAIRS.split() if pair[1] not in _BOTH_USE)
_SIMPLIFIED_ONLY: Final = frozenset(simple for simple, _ in _PAIR_LIST) - _BOTH_USE
_TRADITIONAL_ONLY: Final = frozenset(traditional for _, traditional in _PAIR_LIST) | frozenset("妳麵裡後嚐喔")
_TO_SIMPLIFIED: Final = str.maketrans({traditional: simple for simple, traditional in _PAIR_LIST})

_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]+")
_KANA: Final = re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")
# Kana that decorate Chinese ("鲜の味") or build faces ("¯\_(ツ)_/¯", "(ノ°Д°)ノ"), and so prove nothing by themselves.
_DECORATIVE_KANA: Final = frozenset("のノツシヅづっつへヘミヾゞ")
_HANGUL: Final = re.compile(r"[\uac00-\ud7a3]")
_HANGUL_LETTER: Final = re.compile(r"[\u3131-\u318e]")
_NOT_COMMON: Final = re.compile(
    r"[A-Za-z\u00aa-\u2bff\u2c00-\u2dff\u3041-\u3096\u30a1-\u30fa\u3131-\u318e\ua640-\ud7ff]"
)
_WORD: Final = re.compile(r"[^\W\d_\u3041-\u30ff\u3131-\u318e\u3400-\u9fff\uac00-\ud7a3\U00020000-\U000323af]+")
_NOT_LANGUAGE: Final = re.compile(
    rf"{re.escape(URL_PLACEHOLDER)}|{re.escape(MENTION_PLACEHOLDER)}(?!\w)|\[[^\[\]]{{1,8}}\]"
)

# Scripts that (in comments) one language uses.
_OWN_SCRIPT: Final = (
    (re.compile(r"[\u0e01-\u0e5b]"), "th"),
    (re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"), "el"),
    (re.compile(r"[\u0590-\u05ff]"), "he"),
    (re.compile(r"[\u0530-\u058f]"), "hy"),
    (re.compile(r"[\u10a0-\u10ff]"), "ka"),
    (re.compile(r"[\u0980-\u09ff]"), "bn"),
    (re.compile(r"[\u0a00-\u0a7f]"), "pa"),
    (re.compile(r"[\u0a80-\u0aff]"), "gu"),
    (re.compile(r"[\u0b80-\u0bff]"), "ta"),
    (re.compile(r"[\u0c00-\u0c7f]"), "te"),
    (re.compile(r"[\u0c80-\u0cff]"), "kn"),
    (re.compile(r"[\u0d00-\u0d7f]"), "ml"),
    (re.compile(r"[\u0d80-\u0dff]"), "si"),
    (re.compile(r"[\u0e80-\u0eff]"), "lo"),
    (re.compile(r"[\u0f00-\u0fff]"), "bo"),
    (re.compile(r"[\u1000-\u109f]"), "my"),
    (re.compile(r"[\u1200-\u137f]"), "am"),
    (re.compile(r"[\u1780-\u17ff]"), "km"),
)
# Scripts that several languages share: which of them to choose from. Rarer ones are left out because short comments
# are easily taken for them.
_CYRILLIC: Final = "ru uk bg sr mk be kk mn ky tg"
_ARABIC: Final = "ar fa ur ug ps"
_DEVANAGARI: Final = "hi mr ne"
_LATIN: Final = "en de fr es it pt nl sv da no fi pl cs sk hu ro hr sl tr id ms vi tl ca et lv lt sq is sw az"
_SHARED_SCRIPT: Final = (
    (re.compile(r"[\u0400-\u052f]"), frozenset(_CYRILLIC.split())),
    (re.compile(r"[\u0600-\u06ff\u0750-\u077f]"), frozenset(_ARABIC.split())),
    (re.compile(r"[\u0900-\u097f]"), frozenset(_DEVANAGARI.split())),
    (re.compile(r"[A-Za-z\u00aa-\u024f\u1e00-\u1eff]"), frozenset(_LATIN.split())),
)
# What people type most, and statistics on letters get wrong because it is so short. Only words of one language.
_SHORT_ENGLISH_WORDS: Final = (
    "ok okay good nice great bad cool awesome excellent perfect love loved like liked best better worst worse fine well"
    " poor terrible horrible awful amazing wonderful fantastic beautiful thanks thank thx cheap refund returned broken"
    " useless quality product item fast slow shipping delivery very so it the this is as not was my i works work"
    " recommend recommended happy disappointed disappointing satisfied star stars service phone price value money waste"
    " junk trash garbage nope yes no wow lol omg wtf meh never again works described ever too but and for size color"
    " colour smell smells expected expensive worth buy bought food staff room hotel friendly delicious tasty yummy"
)
_SHORT_ENGLISH: Final = frozenset(_SHORT_ENGLISH_WORDS.split())
_CHINESE_LETTERS_WORDS: Final = "yyds xswl awsl nb nbcs zqsg yygq dbq xdm jms plgg pljj yysy nsdd bdjw sb tmd cnm zz"
_CHINESE_LETTERS: Final = frozenset(_CHINESE_LETTERS_WORDS.split())
_FEW_WORDS: Final = 4
_FEW_LETTERS: Final = 4


def to_simplified(text: str) -> str:
    """Convert Traditional to Simplified Chinese, character by character, as far as the small table goes."""
    return text.translate(_TO_SIMPLIFIED)


def _chinese(han: str) -> str:
    characters = set(han)
    simplified, traditional = len(characters & _SIMPLIFIED_ONLY), len(characters & _TRADITIONAL_ONLY)
    if simplified == traditional:
        return "zh"
    return "zh-Hans" if simplified > traditional else "zh-Hant"


@cache
def _statistics() -> Callable[[str], list[tuple[str, float]]]:
    """py3langid's ranking; the model takes most of a second to load, so only once it is needed."""
    from py3langid import rank

    ranking: Callable[[str], list[tuple[str, float]]] = rank
    return ranking


def _likeliest(text: str, languages: frozenset[str]) -> str | None:
    scores = [(language, score) for language, score in _statistics()(text) if language in languages]
    if not scores or scores[0][1] == scores[-1][1]:  # all alike: the model knows nothing about this text
        return None
    return scores[0][0]


def _by_words(text: str, words: list[str]) -> str | None:
    lowered = [word.lower() for word in words]
    if len(words) <= _FEW_WORDS:
        if all(word in _CHINESE_LETTERS for word in lowered):
            return "zh"
        if 2 * sum(word in _SHORT_ENGLISH for word in lowered) >= len(words):
            return "en"
    letters = "".join(words)
    if len(letters) < _FEW_LETTERS and letters.isascii():
        return None
    for script, language in _OWN_SCRIPT:
        if 2 * len(script.findall(letters)) > len(letters):
            return language
    for script, languages in _SHARED_SCRIPT:
        if 2 * len(script.findall(letters)) > len(letters):
            return _likeliest(text, languages)
    return None


def detect_language(text: str) -> str | None:
    """Tell the language of a comment.

    Kana decide for Japanese, Hangul for Korean, Han characters for Chinese (one of them weighs as much as two Latin
    words, so that product names do not make a Chinese comment English); forms that only Simplified or only Traditional
    Chinese uses tell these apart. Other scripts go to a table or to py3langid, among the languages of that script.

    Args:
        text: a cleaned comment.

    Returns:
        A BCP 47 tag: `zh-Hans`, `zh-Hant`, `zh` (nothing tells which), `ja`, `ko`, `en`, `th`, ...; None where there
        is nothing to go on, as with emoji alone.
    """
    if "[" in text or "@" in text:
        text = _NOT_LANGUAGE.sub(" ", text)
    han = "".join(_HAN.findall(text))
    if han and not _NOT_COMMON.search(text):
        return _chinese(han)
    kana = [character for character in _KANA.findall(text) if character not in _DECORATIVE_KANA]
    hangul = len(_HANGUL.findall(text))
    words = _WORD.findall(text)
    if len(kana) > 1 and 6 * len(kana) >= len(han) and 2 * len(kana) >= len(words):
        return "ja"
    if hangul and hangul >= len(han) and 2 * hangul >= len(words):
        return "ko"
    if han and 2 * len(han) >= len(words):
        return _chinese(han)
    if words:
        return _by_words(text, words)
    return "ko" if _HANGUL_LETTER.search(text) else "ja" if kana else None
